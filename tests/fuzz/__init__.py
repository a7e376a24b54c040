"""Coverage-guided fuzzing of everything that foreign bytes reach: ``python -m tests.fuzz``, ``make fuzz``.

``paths`` says what an input goes through and what may come of it, ``seeds`` what is changed, ``mutation`` how;
``child`` runs atheris on one path, ``__main__`` runs the children and says what they found. A finding becomes a
case in the tests of what was wrong.
"""
