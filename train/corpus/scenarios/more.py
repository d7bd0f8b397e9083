"""More wordings of the same requests, for training alone: they are never picked for the test split, whatever their hash.

Held-out questions are what the small default model misses (its model card); every wording here is one that it may learn from.
None holds a whole held-out wording. Keys are the kinds that the scenarios pick from.
"""

from __future__ import annotations

from train.corpus.exchange import FOR_TRAINING, wordings

FOR_TRAINING.update({
    "sum-form": wordings(
        "what does {a} plus {b} make?; please, what is {a} plus {b}?; and {a} plus {b}?; i need {a} plus {b}; "
        "compute {a} plus {b}; how much do {a} and {b} make?; can you tell me what {a} plus {b} is?; tell me {a} plus {b}; "
        "and how much is {a} plus {b}?; could you add {a} and {b}, please?; {a} and {b}, what does that make?; "
        "what would {a} plus {b} be?; do you know {a} plus {b}?; okay, {a} plus {b}; tell me how much {a} plus {b} is; "
        "work out {a} plus {b}; let us add {a} and {b}; now {a} plus {b}, please"
    ),
    "difference-form": wordings(
        "please, what is {a} minus {b}?; and {a} minus {b}?; compute {a} minus {b}; tell me {a} minus {b}; "
        "i need {a} minus {b}; can you take {b} from {a}?; how much do you get for {a} minus {b}?; "
        "please take {b} away from {a}; what would {a} minus {b} be?; work out {a} minus {b}; so what is {a} minus {b}?; "
        "{a} take away {b}; i want to know {a} minus {b}; please tell me {a} minus {b}; okay, {a} minus {b}"
    ),
    "count-form": wordings(
        "please start at {a} and count to {b}; will you count from {a} to {b}?; i would like you to count from {a} to {b}; "
        "could you count to {b}?; let me hear you count to {b}; now count from {a} to {b}; count up from {a} to {b}; "
        "begin at {a} and count to {b}; show me that you can count to {b}; say the numbers from {a} to {b}; "
        "okay, count from {a} to {b}; go from {a} to {b}; tell me the numbers from {a} to {b}; count to {b}, please; "
        "please count up to {b}; would you count from {a} to {b}, please?; i want to hear the numbers from {a} to {b}"
    ),
    "down-form": wordings(
        "please start at {a} and count down; will you count backwards from {a}?; go backwards from {a}; "
        "i want to hear a countdown from {a}; count from {a} down to one; can you count backwards from {a}?; "
        "start a countdown at {a}; okay, count backwards from {a}"
    ),
    "day-form": wordings(
        "what is the next day after {d}?; and after {d}?; which day is after {d}?; what day is after {d}?; "
        "name the day after {d}; please tell me the day after {d}; can you tell me the day after {d}?; "
        "it is {d} today, what is tomorrow?; i think today is {d}, so what is tomorrow?; {d}, what day is next?; "
        "tell me what day follows {d}; what comes after {d}?; say the day after {d}; today is {d}, so tomorrow is; "
        "could you tell me which day comes after {d}?"
    ),
    "month-form": wordings(
        "and after {m}?; which month is after {m}?; what month is after {m}?; name the month after {m}; "
        "say the month after {m}; {m}, what month is next?; can you tell me what month comes after {m}?; "
        "could you tell me which month comes after {m}?; which month comes next after {m}?; tell me what follows {m}; "
        "what follows {m}?; so which month follows {m}?; what is it that comes after {m}?"
    ),
    "all-form": wordings(
        "tell me all the {x}; can you say the {x}?; could you name the {x}?; what are all the {x}?; name the {x}, please; "
        "i would like to hear the {x}; tell me, what are the {x}?; let me hear the {x}; give me the {x}; the {x}, please"
    ),
    "opp-form": wordings(
        "please tell me the opposite of {a}; and the opposite of {a}?; opposite of {a}; "
        "could you tell me the opposite of {a}?; do you know what the opposite of {a} is?; give me the opposite of {a}; "
        "name the opposite of {a}; i want to know the opposite of {a}; tell me, what is the opposite of {a}?; "
        "so what is the opposite of {a}?; {a}, and the opposite?; {a}, tell me the opposite; "
        "what word is the opposite of {a}?; please say the opposite of {a}; which word is the opposite of {a}?; "
        "do you know the contrary of {a}?"
    ),
    "colour-form": wordings(
        "what color does {x} have?; could you tell me the color of {x}?; tell me the color of {x}; "
        "can you tell me the color of {x}?; do you know what color {x} is?; i want to know the color of {x}; "
        "please tell me what color {x} is; {x}, what is the color?; say what color {x} is; name the color of {x}; "
        "tell me which color {x} is"
    ),
    "animal-form": wordings(
        "please tell me what {x} says; and what does {x} say?; what is the sound of {x}?; tell me the sound {x} makes; "
        "which noise does {x} make?; do you know what sound {x} makes?; can you make the sound of {x}?; "
        "so what does {x} say?; {x}, what does it say?; tell me, what does {x} say?; could you tell me what {x} says?; "
        "what kind of noise does {x} make?; tell me which sound {x} makes; what kind of sound does {x} make?; "
        "do you know which noise {x} makes?; how does {x} go?"
    ),
    "legs-form": wordings(
        "and how many legs does {x} have?; please tell me how many legs {x} has; count the legs of {x}; "
        "could you tell me how many legs {x} has?; tell me how many legs {x} has; {x}, how many legs?; "
        "how many legs are there on {x}?; i want to know how many legs {x} has; do you know how many legs there are on {x}?; "
        "the legs of {x}, how many are there?"
    ),
    "home-form": wordings(
        "and where does {x} live?; so where does {x} live?; please tell me where {x} lives; where is the home of {x}?; "
        "could you tell me where {x} lives?; in what place does {x} live?; tell me, where does {x} live?; "
        "i want to know where {x} lives; where would {x} live?; {x}, where is its home?; where do i find {x}?"
    ),
    "fact-form": wordings(
        "please, {q}; okay, {q}; and {q}; now, {q}; could you tell me, {q}; i want to know, {q}; well, {q}; "
        "one question, {q}; here is a question, {q}; do you happen to know, {q}; i would like to know, {q}; "
        "could you please tell me, {q}; duplex, {q}; another question, {q}; just tell me, {q}"
    ),
    "translate-form": wordings(
        "and {w} in {l}?; what is the word for {w} in {l}?; what would {w} be in {l}?; teach me {w} in {l}; "
        "please, {w} in {l}; what do they say for {w} in {l}?; so what is {w} in {l}?"
    ),
    "name-form": wordings(
        "hello there, my name is {n}; my name, it is {n}; please call me {n}; you may call me {n}; people call me {n}; "
        "everybody calls me {n}; good morning, my name is {n}; it is {n} speaking; here is {n}; hey, my name is {n}; "
        "the name is {n}; i go by {n}; hello duplex, my name is {n}"
    ),
    "name-ask": wordings(
        "what do they call me?; what do you call me?; what was i called?; tell me what i am called; "
        "what is it that i am called?; can you say what my name is?; and who am i?; tell me again what my name is; "
        "what name do i have?; do you know what i am called?; what did i tell you my name was?; which name is mine?; "
        "do you still know who i am?; i forgot my name, what is it?; my name, do you remember it?; my name, what was it?"
    ),
    "order-form": wordings(
        "i will take {x}; i will take {x}, please; hello, can i have {x}?; good morning, {x}, please; just {x}, please; "
        "could i get {x}, please?; may i have {x}?; may i have {x}, please?; i would love {x}; hi, i would like {x}; "
        "one order, {x}; bring me {x}, please; i need {x}; hi, can i get {x}, please?"
    ),
    "revise-form": wordings(
        "sorry, i meant {n}; i want {n}; oh, i want {n}; no, i want {n}; no, make it {n}; sorry, {n} please; "
        "wait, i want {n}; please make it {n}; could you make it {n}?; can you make that {n}?; actually, i want {n}; "
        "oh sorry, make it {n}; better make it {n}; i would rather have {n}; wait, {n} please; oh no, i meant {n}"
    ),
    "order-yes": wordings(
        "yes, that is it; that is it; that is it, thank you; yes, exactly; exactly; that was all; yes, that was all; "
        "nothing else, thank you; that will be all; yes, that is everything; correct; yes, correct; right, that is everything"
    ),
    "order-ask": wordings(
        "please tell me what i ordered; do you know my order?; do you remember my order?; tell me again what i ordered; "
        "what is my order?; so what was it that i ordered?; repeat my order; what did i want?; can you say my order again?; "
        "my order, please; say my order again; what is in my order?; tell me what my order was; "
        "please repeat what i ordered; what was it i ordered?"
    ),
    "sound-form": wordings(
        "and what was that?; what is that sound?; tell me what you hear; tell me what you heard; what did that sound like?; "
        "could you hear that?; can you hear that?; which sound did you hear?; what was this sound?; "
        "tell me which sound that was; what kind of noise was it?; so what was that sound?; name that sound; "
        "please name that sound; do you know what that was?; which noise was that?"
    ),
    "scale-form": wordings(
        "please sing a scale; can you sing a scale?; could you play a scale?; would you sing a scale?; sing me a scale; "
        "play me a scale; let me hear a scale; play a scale, please; i would like to hear a scale; sing a scale for me"
    ),
    "beep-form": wordings(
        "please give me {x}; i would like to hear {x}; would you make {x}?; make {x}, please; now make {x}; "
        "just {x}, please; can you give me {x}?; could i hear {x}?; can i have {x}?; beep for me, {x}; play {x}; "
        "please play {x}; i want {x}"
    ),
    "repeat-form": wordings(
        "please say the words {x}; now say {x}; and now say {x}; would you say {x}?; just say {x}; say after me, {x}; "
        "can you repeat {x}?; could you repeat {x}?; could you please say {x}?; i want to hear {x}; let me hear you say {x}; "
        "try to say {x}; you say {x}; okay, say {x}; listen and repeat, {x}; please say after me, {x}; will you repeat {x}?; "
        "speak after me, {x}; can you say the words {x}?"
    ),
    "spell-form": wordings(
        "please spell the word {w}; can you spell the word {w}?; how would you spell {w}?; how is the word {w} spelled?; "
        "how do i spell {w}?; do you know how to spell {w}?; now spell {w}; spell {w} for me; would you spell {w}?; "
        "tell me the letters of {w}; please tell me how {w} is spelled; how do we spell {w}?; let me hear you spell {w}; "
        "give me the letters of {w}; and how do you spell the word {w}?; try to spell {w}"
    ),
    "manner-form": wordings(
        "tell me what my voice is like; how is my voice?; please tell me how i sound; and how do i sound?; how do i speak?; "
        "what do you say about my voice?; how do you hear me?; can you tell me how i sound?; can you describe my voice?; "
        "do you hear how i sound?; what does my voice sound like?; please describe my voice; tell me about my voice; "
        "listen to my voice, what is it like?"
    ),
    "letters-form": wordings(
        "what word do these letters spell, {l}?; what do the letters {l} spell?; {l}, which word is that?; "
        "tell me which word this is, {l}; please read this word, {l}; can you read this, {l}?"
    ),
    "story-form": wordings(
        "could you tell me a story?; would you tell me a story?; please tell a story; please tell me a short story; "
        "i would like to hear a story; let me hear a short story; tell me one of your stories; now tell me a story; "
        "do you have a story for me?; let us hear a story; tell us a story; will you tell me a story, please?; "
        "tell me a nice story; okay, tell me a story; i would love to hear a story; give me a story; read me a story"
    ),
    "topic-form": wordings(
        "i want to hear the story about the {t}; the story about the {t}, please; please tell me about the {t}; "
        "tell me the one about the {t}; could you tell me the story about the {t}?; please tell me the story of the {t}; "
        "i would like the story about the {t}; let me hear the story about the {t}; give me the story about the {t}; "
        "can you tell me about the {t}?; tell the story about the {t}; do you know the one about the {t}?; "
        "i want the one about the {t}; what happened to the {t}?"
    ),
    "plan-form": wordings(
        "please plan a day in {c}; could you plan a day in {c}?; how could i spend a day in {c}?; "
        "how do i spend a day in {c}?; what should i do in {c}?; what is there to do in {c}?; tell me what i can do in {c}; "
        "what can i see in {c}?; i have a day in {c}, what should i do?; make a plan for {c}; help me plan a day in {c}; "
        "i will be in {c} for a day; can you make a plan for {c}?; would you plan my day in {c}?; "
        "how can i spend my day in {c}?; i am in {c} for a day; we are going to {c}, what should we do?; "
        "plan us a day in {c}; i want to spend a day in {c}; a day in {c}, please"
    ),
    "greet": wordings(
        "hey duplex; hey there; hi, good morning; hello, good evening; hello again; hi again; good morning, duplex; "
        "good evening, duplex; hello, are you there?; hello, can you hear me?; hi, are you there?; good afternoon, duplex"
    ),
    "how": wordings(
        "how are you doing today?; and how are you?; so how are you?; are you fine?; how do you feel today?; are you okay?; "
        "how is your day?; how are things?; are you doing well?; hello, how are you?; hi, how are you?; "
        "how are you feeling?; i hope you are well"
    ),
    "who": wordings(
        "tell me what you can do; what are you able to do?; what things can you do?; what do you do?; "
        "can you tell me what you can do?; have you got a name?; what do they call you?; who is this?; who is there?; "
        "and who are you?; please tell me who you are; what should i call you?; what is your name, please?; "
        "tell me your name; can you tell me your name?; what can i ask you?; how can you help me?; "
        "please tell me about yourself; introduce yourself; what are you good at?"
    ),
    "thanks": wordings(
        "thank you, that helps; thanks, that is nice; okay, thanks; great, thank you; thank you very kindly; "
        "thanks very much; very good, thank you; thank you, duplex; thanks, duplex; i thank you; good, thank you"
    ),
    "bye": ("see you", "see you tomorrow", "see you then", "goodbye for now", "okay, goodbye", "okay, bye", "bye, duplex",
            "talk to you soon", "good night, duplex", "have a nice day", "i have to go, goodbye", "see you again soon"),
    "stop": ("stop that", "no, stop", "hey, stop", "okay, stop now", "stop talking", "please stop talking", "be quiet",
             "be quiet, please", "that is enough, thank you", "enough", "stop right there", "hold on, stop", "okay, enough"),
})
