// Whether sharing the work between threads pays: on a machine that others use too it may not.
//
// A thread that loses its core in the middle of a chunk holds up all others at the end of the phase,
// for as long as the system gives that core away. One thread alone is held up by nobody. Where
// threads wait long for each other, the two ways are therefore measured against each other, the one
// that is not in use now and then and briefly. Where they do not, nothing is tried; nor is sharing
// while no core has time for it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>

#include "idle_cores.h"

namespace river
{

class ShareControl
{
public:
    enum Way
    {
        kShared,
        kAlone
    };

    explicit ShareControl(CoreTime (*core_time)() = CoreTime::now)
        : core_time_(core_time)
    {
    }

    Way way() const
    {
        return static_cast<Way>(way_.load(std::memory_order_relaxed));
    }

    // So much work was done one way in `seconds`, for `waited` of which a thread waited long for
    // another.
    void observe(Way way, double work, double seconds, double waited)
    {
        if (guard_.test_and_set(std::memory_order_acquire))
            return; // another session's work is being taken in
        if (way == this->way())
            count(work, seconds, waited);
        guard_.clear(std::memory_order_release);
    }

private:
    // A window that says something: a system's time slices are some milliseconds.
    static constexpr size_t kLeastPieces = 16;
    static constexpr double kLeastSeconds = 0.02;
    static constexpr double kQuiet = 0.05, kHeldUp = 0.15; // parts of the time that are waits
    // The other way is tried for about a fiftieth of the time that work takes; no longer than so
    // much more than this way's time, and some milliseconds.
    static constexpr double kRest = 50.0, kLeastRest = 0.5, kMostRest = 4.0;
    static constexpr double kLost = 1.5, kPatience = 0.004;
    static constexpr double kRoom = 0.5;   // idle cores that another thread needs
    static constexpr double kBetter = 0.9; // of the other way's time, to change to this one

    void count(double work, double seconds, double waited)
    {
        work_ += work;
        seconds_ += seconds;
        waited_ += waited;
        rest_ -= seconds;
        int const used = way_.load(std::memory_order_relaxed), other = 1 - used;
        bool const lost = trying_ && seconds_ > kLost * cost_[other] * work_ + kPatience;
        if (!lost && (++pieces_ < kLeastPieces || seconds_ < kLeastSeconds))
            return;
        double const measured = seconds_ / work_, held_up = waited_ / seconds_;
        // A shared window without waits is the machine as it now is, whatever was before.
        bool const fresh = cost_[used] == 0 || (used == kShared && held_up < kQuiet);
        cost_[used] = fresh ? measured : (cost_[used] + measured) / 2;
        if (trying_)
        {
            trying_ = false;
            rest_ = std::clamp(kRest * seconds_, kLeastRest, kMostRest);
            if (lost || cost_[used] > kBetter * cost_[other])
                way_.store(other, std::memory_order_relaxed);
        }
        else if (rest_ <= 0 && (used == kAlone ? room() : held_up > kHeldUp))
        {
            trying_ = true;
            way_.store(other, std::memory_order_relaxed);
        }
        work_ = seconds_ = waited_ = 0;
        pieces_ = 0;
    }

    // Whether another thread would have had a core since this was last asked.
    bool room()
    {
        CoreTime const now = core_time_();
        bool const found = now.idle_cores(looked_) >= kRoom;
        looked_ = now;
        rest_ = kLeastRest;
        return found;
    }

    CoreTime (*const core_time_)();
    std::atomic_flag guard_ = ATOMIC_FLAG_INIT;
    std::atomic<int> way_{kShared};
    // Under the guard.
    CoreTime looked_;
    double cost_[2] = {0, 0}; // seconds of a unit of work, lately
    double work_ = 0, seconds_ = 0, waited_ = 0, rest_ = 0;
    size_t pieces_ = 0;
    bool trying_ = false;
};

} // namespace river
