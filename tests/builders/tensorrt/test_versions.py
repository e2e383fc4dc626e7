"""What differs between versions: the real TensorRT-RTX, and stand-ins for versions absent here.

The stand-ins have the names that NVIDIA's public Python bindings of each version define and no
others (github.com/NVIDIA/TensorRT, python/src), as far as this project calls them.
"""

from types import SimpleNamespace

import pytest

from builders.tensorrt import versions
from builders.tensorrt.options import Profile
from builders.tensorrt.worker import profile_shapes
from river_trt.backends.tensorrt import library
from river_trt.errors import MissingDependencyError, RiverError

ATTENTION = {"add_attention"}
CACHE = {"add_kv_cache_update", "add_rotary_embedding"}


def stand_in(version: str, network: set[str], explicit_targets: bool = False) -> SimpleNamespace:
    config = {"set_compute_capability"} if explicit_targets else set()
    return SimpleNamespace(
        __version__=version,
        INetworkDefinition=SimpleNamespace(**dict.fromkeys(network)),
        IBuilderConfig=SimpleNamespace(**dict.fromkeys(config)),
        PreviewFeature=SimpleNamespace(ALIASED_PLUGIN_IO_10_03="aliased"),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS="ampere+"),
        ComputeCapability=SimpleNamespace(__members__={"NONE": 0, "SM80": 1, "SM120": 2}),
    )


VERSIONS = {
    "10.14.1": stand_in("10.14.1.48", ATTENTION),
    "10.15.0": stand_in("10.15.0", ATTENTION | CACHE),
    "10.16.1": stand_in("10.16.1", ATTENTION | CACHE),
    "11.1.0": stand_in("11.1.0", ATTENTION | CACHE | {"add_attention_v2"}),
    "RTX": stand_in("1.7.1", ATTENTION | CACHE | {"add_attention_v2"}, explicit_targets=True),
}
# Columns: portable mode, plugin mode, targets are named, timing cache and hardware compatibility.
TABLE = {
    "10.14.1": (False, True, False, True),
    "10.15.0": (True, True, False, True),
    "10.16.1": (True, True, False, True),
    "11.1.0": (True, True, False, True),
    "RTX": (True, True, True, False),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_table_of_versions(version):
    trt = VERSIONS[version]
    portable, plugin, targets, cache = TABLE[version]
    assert all(versions.has(trt, name) for name in versions.PORTABLE_NEEDS) == portable
    assert versions.has(trt, "aliased_plugin_io") == plugin
    assert (versions.buildable_targets(trt) is not None) == targets
    assert versions.has(trt, "timing_cache") == cache
    assert versions.has(trt, "hardware_compatibility") == cache


def test_the_real_rtx_is_as_its_stand_in():
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")
    for name in versions.FEATURES:
        assert versions.has(trt, name) == versions.has(VERSIONS["RTX"], name), name
    assert "8.0" in (versions.buildable_targets(trt) or ())


def test_what_a_version_lacks_is_named():
    with pytest.raises(RiverError, match=r"portable mode needs kv cache update of TensorRT 10\.15"):
        versions.require(VERSIONS["10.14.1"], "tensorrt", versions.PORTABLE_NEEDS, "portable mode")
    with pytest.raises(RiverError, match="ignores hardware_compatibility"):
        versions.set_hardware_compatibility(
            VERSIONS["RTX"], "tensorrt-rtx", SimpleNamespace(), "ampere_plus"
        )


def test_targets_are_told_only_where_the_library_asks():
    calls = []
    config = SimpleNamespace(set_compute_capability=lambda *call: calls.append(call))
    versions.set_target(VERSIONS["10.16.1"], config, "9.0")
    assert not calls
    trt = VERSIONS["RTX"]
    trt.ComputeCapability.SM120 = "sm120"
    versions.set_target(trt, config, "12.0")
    assert (calls, config.num_compute_capabilities) == ([("sm120", 0)], 1)
    versions.check_target(trt, "tensorrt-rtx", "mine", "12.0")
    with pytest.raises(RiverError, match=r"does not build for target h100.*only for 8\.0, 12\.0"):
        versions.check_target(trt, "tensorrt-rtx", "h100", "9.0")
    versions.check_target(VERSIONS["11.1.0"], "tensorrt", "h100", "9.0")


def test_hardware_compatibility_and_flags_of_full_tensorrt():
    config = SimpleNamespace()
    versions.set_hardware_compatibility(VERSIONS["11.1.0"], "tensorrt", config, "ampere_plus")
    assert config.hardware_compatibility_level == "ampere+"
    made = versions.create_network(
        VERSIONS["11.1.0"], SimpleNamespace(create_network=lambda flags: flags)
    )
    assert made == 1 << 1


def test_libraries_that_are_missing_or_old(monkeypatch):
    with pytest.raises(RiverError, match="'new' is no version"):
        library.version_numbers("new")
    monkeypatch.setattr(
        library, "import_module", lambda name: SimpleNamespace(__version__="10.13.3")
    )
    with pytest.raises(RiverError, match=r"TensorRT 10\.13\.3 is older than 10\.14; pip install"):
        library.load_library("tensorrt")

    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(library, "import_module", missing)
    with pytest.raises(MissingDependencyError, match="TensorRT-RTX is not installed.*rtx-cu13"):
        library.load_library("tensorrt-rtx")


def test_profiles_never_pass_the_cache():
    profile = Profile("prefill", (1, 1, 4), (1, 512, 512), (1, 1, 512))
    assert profile_shapes("input_ids", (-1, -1), profile, 64) == [(1, 1), (1, 64), (4, 64)]
    assert profile_shapes("logit_indices", (-1,), profile, 64) == [(1,), (1,), (64,)]
    assert profile_shapes("past_lengths", (-1,), profile, 2) == [(1,), (1,), (4,)]
    dynamic, fixed = (-1, 2, -1, 16), (-1, 2, 64, 16)
    assert profile_shapes("k_cache.0", dynamic, profile, 4096)[2] == (4, 2, 4096, 16)
    assert profile_shapes("k_cache.0", dynamic, profile, 64)[0] == (1, 2, 64, 16)
    assert profile_shapes("k_cache.0", fixed, profile, 64)[1] == (1, 2, 64, 16)
