"""Prompts for the scripts that look at lossless mode: forty of different kinds, and eight more
that are answered with words of their own, as an editor's or a retrieval's are.
"""

PROMPTS = (
    "Tell me a short story about a fox.",
    "Write a Python function that reverses a string.",
    "Explain photosynthesis simply.",
    "What is the capital of France? Explain.",
    "List three habits that help people to learn a new language.",
    "Why is the sky blue?",
    "Write an email to a colleague to move a meeting to Friday.",
    "Summarise the plot of Romeo and Juliet.",
    "How do I bake bread without yeast?",
    "Give me tips for a job interview.",
    "What is the difference between weather and climate?",
    "Write a haiku about the sea.",
    "Translate to French: the cat sleeps on the sofa.",
    "How does a bicycle stay upright?",
    "Write a SQL query that counts the orders of each customer.",
    "What are prime numbers, and why do they matter?",
    "Describe a sunset to someone who has never seen one.",
    "How can I save water at home?",
    "Who was Ada Lovelace?",
    "Write a limerick about a lazy dog.",
    "What happens in the body during exercise?",
    "Compare trains and planes for long journeys.",
    "Write a JavaScript function that checks whether a number is even.",
    "Explain inflation to a child.",
    "Give me a recipe for vegetable soup.",
    "What should I look at when I buy a used car?",
    "Why do leaves change their colour in autumn?",
    "Write a product description of a wooden chair.",
    "How do vaccines work?",
    "List the planets of the solar system with one fact each.",
    "Write a thank-you note to a teacher.",
    "What is machine learning?",
    "How do I remove a coffee stain?",
    "Tell me about the history of the bicycle.",
    "Write a dialogue between a river and a stone.",
    "What is the Pythagorean theorem? Give an example.",
    "Plan a weekend in the mountains.",
    "Explain how a refrigerator cools.",
    "Give arguments for and against working from home.",
    "Write a bash command that finds files larger than one megabyte.",
)

_MEDIAN = """def median(values):
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2"""
_STACK = """class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("the stack is empty")
        return self.items.pop()

    def __len__(self):
        return len(self.items)"""
_QUERY = """SELECT customers.name, COUNT(orders.id) AS orders, SUM(orders.total) AS total
FROM customers
JOIN orders ON orders.customer_id = customers.id
WHERE orders.placed_at >= '2025-01-01'
GROUP BY customers.name
HAVING COUNT(orders.id) > 3
ORDER BY total DESC;"""
_RECORDS = """{"name": "Ada", "born": 1815, "field": "mathematics", "city": "London"}
{"name": "Emmy", "born": 1882, "field": "algebra", "city": "Erlangen"}
{"name": "Grace", "born": 1906, "field": "compilers", "city": "New York"}"""
_NOTICE = (
    "The lift in the west wing will be out of service from Monday, 3 March, to Friday, 7 March. "
    "Please use the stairs or the lift in the east wing. Deliveries go to the loading bay behind "
    "the building. Visitors who need help are met at the main entrance; call 555-0134 a day ahead."
)
_MINUTES = (
    "The committee met on Tuesday. It agreed to repaint the hall, to mend the roof before winter "
    "and to buy forty new chairs. Mr Hill will ask three firms for prices. Mrs Baker will write to "
    "the council about the car park. The next meeting is on the second Tuesday of October."
)
QUOTING = (
    f"Copy this function exactly, and change nothing:\n\n{_MEDIAN}",
    f"Write out this class again, word for word:\n\n{_STACK}",
    f"Repeat this query exactly:\n\n{_QUERY}",
    f"Print these records again, unchanged:\n\n{_RECORDS}",
    f"Repeat this notice word for word:\n\n{_NOTICE}",
    f"Quote these minutes in full:\n\n{_MINUTES}",
    f"Add a comment above this function, and print the whole function:\n\n{_MEDIAN}",
    f"Here is a class. Show it again with the method `pop` unchanged:\n\n{_STACK}",
)
