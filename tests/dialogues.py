"""What people say of themselves, and questions on it that share no word with the answer."""

ANSWERS = (
    ("I can't eat shellfish", "Which seafood should she avoid?"),
    (
        "My flat is on the fifth floor and there is no lift",
        "Why is it tiring to carry the groceries home?",
    ),
    ("We adopted two kittens from the shelter", "What pets do they own?"),
    ("I play the cello in an amateur orchestra", "Which musical instrument can he perform on?"),
    ("My sister married a dentist in Lisbon", "Who is the brother-in-law?"),
    ("I sold my car and cycle everywhere now", "How does she commute?"),
    ("The doctor told me my blood pressure is too high", "Are there any health problems?"),
    ("I'm terrified of flying", "Would a plane trip be a good idea?"),
    ("We're expecting a baby in October", "Is the family going to grow?"),
    ("I quit the bank and opened a bakery", "What does he do for a living?"),
    (
        "Dad broke his hip last winter and uses a wheelchair",
        "Does the parent need step-free access?",
    ),
    ("I never drink alcohol", "Should I bring wine as a present?"),
    ("My boss wants the slides by Thursday noon", "When is the presentation due?"),
    ("I sleep badly when it is hot", "What disturbs the night's rest?"),
    ("I grew up on a farm in Iowa", "Where did she spend her childhood?"),
    ("Our daughter got into medical school", "What will their child study?"),
    ("I collect old postage stamps", "Which hobby does he have?"),
    ("We celebrate our wedding on the third of June", "What date is the anniversary?"),
    ("I owe my brother four hundred euros", "Who lent him money?"),
    ("I've been learning Japanese for two years", "Which foreign language can she speak?"),
    ("The landlord is raising the rent again", "Is housing becoming more expensive?"),
    ("I left my umbrella on the tram", "What did he lose?"),
    ("My favourite food is lasagne", "Which dish does she like best?"),
    ("I run a marathon every autumn", "What sport does he do?"),
    ("Grandma turned ninety yesterday", "How old is the oldest relative?"),
    ("I wear glasses for reading", "Does she have poor eyesight?"),
    ("The dog next door barks all night", "What noise bothers him at home?"),
    ("I paid off my student loan", "Is there still any debt from university?"),
    ("I'm allergic to pollen", "Why does she sneeze in spring?"),
    ("We moved from Hamburg to Zurich", "Which city do they live in now?"),
)

SUBJECTS = (
    *("the meeting", "the garden", "the new printer", "the neighbour's fence", "the train"),
    *("the weather", "the football match", "the museum", "the supermarket", "the radio"),
)
REMARKS = (
    "I was late because of {} this morning",
    "Nothing new about {}, as usual",
    "Somebody should really look after {}",
    "I told Paul what I think of {}",
    "Let us talk about {} tomorrow",
    "I have photos of {} on my phone",
)
OTHERS = tuple(remark.format(subject) for subject in SUBJECTS for remark in REMARKS)
