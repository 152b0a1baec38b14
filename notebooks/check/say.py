"""The two things a check says. Both return whether the answer was right, so that a program can ask too."""


def right(text: str) -> bool:
    print(f"Right. {text}")
    return True


def wrong(hint: str) -> bool:
    print(f"Not yet. {hint}")
    return False
