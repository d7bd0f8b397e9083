"""Long answers: three short stories, and a plan for a day in a city. They can be interrupted and corrected."""

from __future__ import annotations

from train.corpus.exchange import Exchange, scenario, wordings

STORIES = {
    "fox": "once upon a time, a small fox found a silver key. she carried it through the forest, over the river and up "
    "the hill. at the top stood an old door. the key turned, the door opened, and behind it was the morning sun.",
    "boat": "long ago, a fisherman built a boat from an old piano. every wave that touched it made a soft note. the fish "
    "came to listen, and the fisherman never went home hungry again.",
    "star": "one night, a little star fell into a garden. a girl put it in a glass of water and gave it a name. in the "
    "morning the star was gone, but the water never stopped to shine.",
}
PLANS = {
    "paris": "in the morning, walk along the river. at noon, eat a crepe in the park. in the evening, climb the tower.",
    "rome": "in the morning, visit the old arena. at noon, eat pizza. in the evening, throw a coin into the fountain.",
    "london": "in the morning, see the big clock. at noon, have fish and chips. in the evening, go to the theater.",
    "madrid": "in the morning, look at the paintings. at noon, row a boat in the park. in the evening, eat late and dance.",
    "berlin": "in the morning, walk through the gate. at noon, visit the island of museums. in the evening, hear a concert.",
}
WORDINGS = {
    "story-form": wordings(
        "tell me a story; please tell me a story; can you tell me a story?; i want a story; tell a story; "
        "tell me a short story; do you know a story?; i would like a story; could you tell me a story, please?; "
        "let me hear a story; i want to hear a story"
    ),
    "plan-form": wordings(
        "plan a day in {c}; what can i do in {c}?; plan my day in {c}; i am in {c}, what should i do?; "
        "make a plan for a day in {c}; what should i see in {c}?; i have one day in {c}; "
        "i am going to {c}, what should i do?; tell me what to do in {c}; can you plan a day in {c}?; "
        "how should i spend a day in {c}?"
    ),
    "topic-form": wordings(
        "tell me the story about the {t}; tell me about the {t}; i want the story about the {t}; "
        "do you know the story about the {t}?; the story of the {t}, please; can you tell me the story about the {t}?; "
        "i would like to hear about the {t}"
    ),
}


@scenario(1.2)
def story(rng, pick):
    """A short story."""
    form = pick("story-form", WORDINGS["story-form"])
    topic, other = rng.sample(list(STORIES), 2)
    instead = Exchange(f"no, the one about the {other}", STORIES[other], True)
    if rng.random() < 0.4:
        form = pick("topic-form", WORDINGS["topic-form"]).format(t=topic)
    return [Exchange(form, STORIES[topic], True, correction=instead)]


@scenario(1.0)
def day_plan(rng, pick):
    """A plan for a day in a city."""
    form = pick("plan-form", WORDINGS["plan-form"])
    city, other = rng.sample(list(PLANS), 2)
    instead = Exchange(f"no, i meant {other}", PLANS[other], True)
    return [Exchange(form.format(c=city), PLANS[city], True, correction=instead)]
