"""GSM8K: grade-school problems whose answer is a number (Cobbe et al., 2021).

The worked examples are ours, written for this project, so scores compare between policies of one
engine; published scores use other examples.
"""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from builders.evaluation.texts import read_records
from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.prompts import Prompt

FIELDS = {"question": str, "answer": str}
MAX_NEW_TOKENS = 256
STOP = ("\nQuestion:", "\n\nQuestion")
ANSWER = "The answer is"
NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")

EXAMPLES = (
    (
        "A baker fills 6 trays with 12 rolls each and sells 50 rolls. How many rolls are left?",
        "The baker has 6 x 12 = 72 rolls. After selling 50, 72 - 50 = 22 are left.",
        "22",
    ),
    (
        "Noor reads 15 pages on Monday and twice as many on Tuesday. Her book has 90 pages. "
        "How many pages has she still to read?",
        "On Tuesday she reads 2 x 15 = 30 pages. So far that is 15 + 30 = 45 pages. "
        "She has 90 - 45 = 45 pages to read.",
        "45",
    ),
    (
        "A train ticket costs $14 and a bus ticket costs $3. A family buys 4 train tickets and "
        "5 bus tickets. What do they pay in dollars?",
        "The train tickets cost 4 x 14 = 56 dollars. The bus tickets cost 5 x 3 = 15 dollars. "
        "Together that is 56 + 15 = 71 dollars.",
        "71",
    ),
    (
        "A tank holds 240 litres and is a quarter full. A pump adds 20 litres a minute. "
        "How many minutes does it take to fill the tank?",
        "A quarter of 240 is 240 / 4 = 60 litres. 240 - 60 = 180 litres are missing. "
        "At 20 litres a minute that takes 180 / 20 = 9 minutes.",
        "9",
    ),
    (
        "Iris is 4 years older than Tomas. In 6 years Tomas will be 20. How old is Iris now?",
        "Tomas is now 20 - 6 = 14. Iris is 14 + 4 = 18.",
        "18",
    ),
    (
        "A shop lowers the price of a 60 dollar coat by 25 percent. What does the coat cost then?",
        "25 percent of 60 is 60 x 0.25 = 15. The coat costs 60 - 15 = 45 dollars.",
        "45",
    ),
    (
        "Three gardeners plant 18 bulbs an hour each. They work for 2 hours, and then one of them "
        "goes home while the others work for 1 hour more. How many bulbs do they plant?",
        "In 2 hours the three plant 3 x 18 x 2 = 108 bulbs. In the last hour two of them plant "
        "2 x 18 = 36 bulbs. Together that is 108 + 36 = 144.",
        "144",
    ),
    (
        "A cyclist rides 12 kilometres in half an hour and then 9 kilometres in the next half "
        "hour. What is her speed in kilometres an hour over the whole ride?",
        "She rides 12 + 9 = 21 kilometres in 1 hour. Her speed is 21 kilometres an hour.",
        "21",
    ),
)


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    answer: Decimal


def read_questions(path: Path) -> list[Question]:
    """Questions with their answers: the number behind `####`."""
    questions = []
    for number, record in enumerate(read_records(path, FIELDS), 1):
        gold = last_number(record["answer"].rpartition("####")[2])
        if gold is None:
            raise RiverError(f"{path}, record {number}: field 'answer' holds no number")
        questions.append(Question(record["question"], gold))
    return questions


def ask(engine: Engine, question: Question, chat: bool) -> Prompt:
    return engine.chat_prompt(messages(question.text)) if chat else prompt(question.text)


def prompt(question: str) -> str:
    """Eight worked examples, then the question."""
    shots = [f"Question: {q}\nAnswer: {work} {ANSWER} {a}.\n" for q, work, a in EXAMPLES]
    return "\n".join([*shots, f"Question: {question}\nAnswer:"])


def messages(question: str) -> list[dict[str, Any]]:
    """The same as a conversation of nine turns."""
    turns = []
    for asked, work, answer in EXAMPLES:
        turns.append({"role": "user", "content": asked})
        turns.append({"role": "assistant", "content": f"{work} {ANSWER} {answer}."})
    return [*turns, {"role": "user", "content": question}]


def last_number(text: str) -> Decimal | None:
    found = NUMBER.findall(text)
    if not found:
        return None
    try:
        return Decimal(found[-1].replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None


def is_correct(question: Question, answer: str, chat: bool) -> bool:
    """Exact match of the last number of the answer."""
    return last_number(answer) == question.answer
