"""What an object's class is called among COCO's classes, in which the usual detectors find things.

The table is meant to be edited: one line per COCO class, with the words that people use for it or for its kinds. A
recipe adds to it, or overrides it, with `[guard.equivalents]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from augment.stages.text import class_pattern, class_words

# One word or several, singular; "golden retriever" is found by its last word.
SYNONYMS: dict[str, str] = {
    "person": "people, human, pedestrian, man, woman, child, kid, boy, girl, baby, lady, guy, player, worker, "
    "cyclist, rider, skier, diver, scuba diver, groom, bridegroom, astronaut, ballplayer, actor, actress, "
    "doctor, nurse, soldier, policeman, firefighter, portrait, selfie, face, pose, model, family, crowd, "
    "tourist, student",
    "bicycle": "bike, cycle, tandem, velocipede",
    "car": "automobile, auto, cab, taxi, sedan, limousine, limo, convertible, coupe, hatchback, suv, jeep, "
    "minivan, van, station wagon, beach wagon, racer, race car, racing car, sports car, police car, cruiser, "
    "vehicle",
    "motorcycle": "motorbike, scooter, motor scooter, moped, vespa",
    "airplane": "aeroplane, plane, aircraft, airliner, jet, warplane, fighter, biplane, glider",
    "bus": "minibus, school bus, coach, trolleybus, double decker",
    "train": "locomotive, tram, streetcar, tramway, railcar, subway, metro, bullet train",
    "truck": "lorry, pickup, fire engine, tow truck, trailer truck, garbage truck, moving van, semi, ambulance",
    "boat": "ship, yacht, canoe, kayak, gondola, ferry, speedboat, sailboat, schooner, catamaran, liner, "
    "ocean liner, lifeboat, fireboat, trimaran, vessel, dinghy, raft",
    "traffic light": "stoplight, traffic signal",
    "fire hydrant": "hydrant",
    "stop sign": "street sign, traffic sign",
    "parking meter": "",
    "bench": "park bench, pew",
    "bird": "hen, rooster, cock, chicken, duck, drake, mallard, goose, swan, eagle, hawk, falcon, kite, "
    "vulture, owl, gull, seagull, pelican, penguin, heron, stork, crane, egret, flamingo, ibis, sparrow, finch, "
    "goldfinch, robin, jay, magpie, crow, raven, pigeon, dove, parrot, macaw, cockatoo, lorikeet, toucan, "
    "hummingbird, kingfisher, hornbill, peacock, pheasant, quail, partridge, grouse, ptarmigan, turkey, "
    "ostrich, emu, woodpecker, wren, warbler, tern, albatross, cormorant, puffin, sandpiper, oystercatcher, "
    "bulbul, bunting, junco, chickadee, tit, swallow, cuckoo, coot, crake, gallinule, bustard, spoonbill, "
    "bittern, loon, grebe, thrush, starling, oriole, cardinal, nuthatch",
    "cat": "kitten, kitty, feline, tabby, siamese, persian, maine coon, ragdoll, sphynx, bengal, lynx, "
    "cougar, leopard, cheetah, jaguar, tiger, lion",
    "dog": "puppy, pup, hound, canine, retriever, terrier, spaniel, shepherd, sheepdog, collie, poodle, "
    "bulldog, mastiff, husky, malamute, corgi, beagle, pug, dachshund, dalmatian, setter, pointer, schnauzer, "
    "pinscher, doberman, rottweiler, boxer, chihuahua, pomeranian, samoyed, chow, akita, shiba inu, great dane, "
    "saint bernard, newfoundland, pekinese, maltese, papillon, shih tzu, lhasa, whippet, greyhound, wolfhound, "
    "deerhound, bloodhound, foxhound, coonhound, bluetick, redbone, saluki, borzoi, weimaraner, vizsla, "
    "griffon, affenpinscher, basenji, keeshond, leonberg, komondor, kuvasz, malinois, groenendael, briard, "
    "kelpie, bouvier, basset, ridgeback, labrador, appenzeller, entlebucher, schipperke, wolf, coyote, dingo, "
    "dhole, jackal, fox",
    "horse": "pony, foal, mare, stallion, colt, sorrel, donkey, mule, unicorn",
    "sheep": "lamb, ram, ewe, bighorn, goat, ibex",
    "cow": "bull, calf, cattle, ox, bison, buffalo, water buffalo, yak, heifer",
    "elephant": "mammoth, tusker",
    "bear": "grizzly, panda, polar bear, sloth bear",
    "zebra": "",
    "giraffe": "",
    "backpack": "rucksack, knapsack, schoolbag",
    "umbrella": "parasol",
    "handbag": "purse, bag, tote, shoulder bag, clutch",
    "tie": "necktie, bow tie, windsor tie, bolo tie",
    "suitcase": "luggage, briefcase, trunk",
    "frisbee": "flying disc",
    "skis": "ski",
    "snowboard": "",
    "sports ball": "ball, football, soccer ball, basketball, volleyball, baseball, tennis ball, golf ball, "
    "rugby ball, ping pong ball, croquet ball",
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "mitt, catcher mitt",
    "skateboard": "longboard",
    "surfboard": "bodyboard, paddleboard",
    "tennis racket": "racket, racquet, badminton racket",
    "bottle": "beer bottle, wine bottle, water bottle, pop bottle, flask, pill bottle, vial",
    "wine glass": "goblet, glass, champagne glass",
    "cup": "mug, coffee mug, teacup, tumbler, beaker, measuring cup, espresso",
    "fork": "",
    "knife": "dagger, cleaver, letter opener, blade",
    "spoon": "wooden spoon, ladle, teaspoon",
    "bowl": "mixing bowl, soup bowl, mortar",
    "banana": "plantain",
    "apple": "granny smith",
    "sandwich": "cheeseburger, burger, hamburger, toast, panini, bagel",
    "orange": "tangerine, mandarin, clementine, lemon, grapefruit",
    "broccoli": "cauliflower",
    "carrot": "",
    "hot dog": "hotdog, sausage",
    "pizza": "",
    "donut": "doughnut",
    "cake": "cupcake, muffin, birthday cake, pie",
    "chair": "armchair, folding chair, rocking chair, stool, barber chair, throne, seat",
    "couch": "sofa, studio couch, settee, loveseat",
    "potted plant": "houseplant, plant, pot plant, flowerpot, bonsai, cactus",
    "bed": "four poster, crib, cradle, bunk bed",
    "dining table": "table, desk, dinner table",
    "toilet": "toilet seat, lavatory",
    "tv": "television, television set, tv monitor, monitor, screen",
    "laptop": "notebook, notebook computer, laptop computer",
    "mouse": "computer mouse",
    "remote": "remote control",
    "keyboard": "computer keyboard, typewriter keyboard",
    "cell phone": "phone, smartphone, mobile phone, cellphone, cellular telephone, telephone, ipod",
    "microwave": "microwave oven",
    "oven": "stove, rotisserie, cooker",
    "toaster": "",
    "sink": "washbasin, basin",
    "refrigerator": "fridge, icebox, freezer",
    "book": "comic book, magazine, novel, book jacket",
    "clock": "wall clock, analog clock, digital clock, alarm clock, watch, stopwatch",
    "vase": "jar, urn, pitcher, jug",
    "scissors": "scissor, shears",
    "teddy bear": "teddy, plush toy, stuffed animal",
    "hair drier": "hair dryer, hand blower, blow dryer",
    "toothbrush": "",
}


def equivalents(
    group: str | None, classes: Sequence[str], extra: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """Which of a detector's `classes` show an object of the class `group`; none if it has no such class.

    `extra` maps further class names to what they are found as, and is looked at first. Then come the classes' own
    names, then the table, each by the whole name and after that by its last word: "sports car" is a "car". A name with
    two meanings gives both: an image rejected needlessly costs a seed, a wrong label costs more.
    """
    name = class_words(group)
    for given, found_as in (extra or {}).items():
        if given == group or (name is not None and class_words(given) == name):  # codes such as "n02084071", too
            return tuple(found_as)
    return () if name is None else _found_as(name, tuple(classes))


@lru_cache(maxsize=1024)
def _found_as(name: str, classes: tuple[str, ...]) -> tuple[str, ...]:
    for wanted in dict.fromkeys((name, name.split(" ")[-1])):
        found = [label for label in classes if _same(label, wanted) or _is_kind_of(label, wanted)]
        if found:
            return tuple(found)
    return ()


def _same(one: str, other: str) -> bool:
    """Whether two names are the same apart from number, case and hyphens."""
    pattern = class_pattern(one)
    return bool(pattern and pattern.fullmatch(other)) or class_words(one) == other


def _is_kind_of(label: str, wanted: str) -> bool:
    return any(_same(word, wanted) for word in SYNONYMS.get(class_words(label) or "", "").split(", ") if word)
