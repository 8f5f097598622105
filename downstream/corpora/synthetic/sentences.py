"""What is said: random sentences of an English grammar, random words of other languages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ENGLISH = {
    "noun": """
        actor animal answer apple army artist aunt baby baker bank barn basket beach bear bell bench bird blanket boat
        book bottle box branch bread bridge brother bucket building butter cabin cake camera candle captain carpet
        castle cat chair cheese chicken child church circle city clock cloud coat coffee corner country cousin cow
        crowd cup curtain dancer daughter desert diamond dinner doctor dog donkey door dragon dream driver drum duck
        eagle ear egg elephant engine evening eye face factory family farmer father feather fence field finger fire
        fish flag flower forest fountain fox friend frog garden gate giant girl glass goat goose grass guard guitar
        hammer hand harbor hat hill honey horse hospital hotel hour house hunter husband island jacket jar judge key
        king kitchen kitten knife ladder lady lake lamp lawyer leaf lemon letter library lion lizard lock machine map
        market meadow message milk miller mirror monkey moon morning mother mountain mouse museum music nail neck nest
        night noise nurse ocean office onion orange oven owl paper parrot path pencil pepper piano picture pigeon pilot
        pillow pirate planet plate pocket poet police potato prince prison puppet queen question rabbit radio rain
        ribbon ring river road robber rock roof room rope rose sailor salt sand school sea shadow sheep shelf ship shirt
        shoe shop singer sister sky smoke snake snow soldier song spider spoon spring star station stone storm stranger
        street sugar summer table tailor teacher tent theater thief thunder ticket tiger tower town toy train treasure
        tree tunnel turtle uncle valley vessel village violin voice wagon wall watch water weather wheel wife window
        winter witch wolf woman wood yard
    """,
    "adjective": """
        old young small large green yellow purple quiet noisy heavy light clever foolish gentle angry happy sad bright
        dark narrow wide golden silver broken empty hungry thirsty lazy busy brave strange famous lonely curious
        friendly wooden ancient modern silent frozen dusty muddy rusty shiny smooth rough sharp bitter sweet sour fresh
        rotten wild tame proud humble honest careful careless cheap precious royal simple perfect secret crooked
        enormous terrible beautiful wonderful dangerous
    """,
    "verb": """
        paint watch follow open push pull clean count cover offer answer help hunt lift load mark match need order pack
        plant print reach record repair repeat return search sketch touch visit want warn wash guard greet insult
        inspect invent collect protect attack admire borrow discover deliver destroy examine explain finish forget
        gather ignore imagine mention murder obey pardon polish praise prepare present punish remember rescue respect
        select shelter smell soften steal surround test trust twist welcome
    """,
    "adverb": """
        slowly quickly quietly again today yesterday often never always together already almost suddenly carefully
        gladly early late outside upstairs somewhere everywhere twice tonight secretly bravely finally perhaps indeed
        instead forever
    """,
    "name": """
        alice arthur anna benjamin betty carl catherine daniel diana edward emma felix frances george grace henry helen
        isaac irene james julia kevin laura louis margaret martin nancy nathan oliver olivia peter paula robert rachel
        samuel sarah thomas teresa victor vera walter wendy
    """,
    "number": """
        two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
        nineteen twenty thirty forty fifty sixty seventy eighty ninety
    """,
}
"""Vocabulary of the English grammar: even words for the corpora, odd ones for pre-training."""

IRREGULAR = {"forget": "forgot", "steal": "stole", "admire": "admired", "examine": "examined", "rescue": "rescued",
             "imagine": "imagined", "ignore": "ignored", "prepare": "prepared", "praise": "praised",
             "murder": "murdered", "obey": "obeyed"}  # fmt: skip

PLURALS = {"child": "children", "fish": "fish", "foot": "feet", "goose": "geese", "knife": "knives", "leaf": "leaves",
           "man": "men", "mouse": "mice", "sheep": "sheep", "shelf": "shelves", "thief": "thieves", "wife": "wives",
           "wolf": "wolves", "woman": "women"}  # fmt: skip

WORDS = {
    "de": """
        haus straße mutter wasser schule freund garten fenster morgen abend küche brücke stadt kind blume vogel tisch
        schlüssel himmel sonne regen winter sommer arbeit zeitung kirche bäcker lehrer könig tochter schreiben sprechen
        laufen trinken schlafen verstehen glücklich langsam schnell zwischen wenig plötzlich natürlich gestern heute
        vielleicht immer niemals zusammen draußen freundlich richtig schwierig möglich wichtig jung reich dunkel
        hübsch leise weiß grün gelb schwarz
    """,
    "es": """
        casa calle madre agua escuela amigo jardín ventana mañana noche cocina puente ciudad niño flor pájaro mesa llave
        cielo lluvia invierno verano trabajo periódico iglesia panadero maestro rey hija escribir hablar correr beber
        dormir entender feliz despacio rápido entre poco siempre nunca juntos afuera ayer hoy quizás amable difícil
        posible importante joven rico oscuro guapo blanco verde amarillo negro corazón caballo zapato queso huevo leche
        guerra cuchara
    """,
    "fi": """
        talo katu äiti vesi koulu ystävä puutarha ikkuna aamu ilta keittiö silta kaupunki lapsi kukka lintu pöytä avain
        taivas aurinko sade talvi kesä työ sanomalehti kirkko leipuri opettaja kuningas tytär kirjoittaa puhua juosta
        juoda nukkua ymmärtää onnellinen hitaasti nopeasti välissä vähän aina koskaan yhdessä ulkona eilen tänään ehkä
        ystävällinen vaikea mahdollinen tärkeä nuori rikas tumma kaunis valkoinen vihreä keltainen musta hevonen kenkä
        juusto metsä
    """,
    "fr": """
        maison rue mère eau école ami jardin fenêtre matin soir cuisine pont ville enfant fleur oiseau table clé ciel
        soleil pluie hiver été travail journal église boulanger maître roi fille écrire parler courir boire dormir
        comprendre heureux lentement vite entre peu toujours jamais ensemble dehors hier demain aujourd'hui peut-être
        aimable difficile possible important jeune riche sombre beau blanc vert jaune noir cheval chaussure fromage œuf
        lait bouteille
    """,
    "it": """
        casa strada madre acqua scuola amico giardino finestra mattina sera cucina ponte città bambino fiore uccello
        tavola chiave cielo sole pioggia inverno estate lavoro giornale chiesa fornaio maestro re figlia scrivere
        parlare correre bere dormire capire felice lentamente presto poco sempre mai insieme fuori ieri oggi forse
        gentile difficile possibile importante giovane ricco scuro bello bianco verde giallo nero cavallo scarpa
        formaggio uovo latte bottiglia foglia coniglio
    """,
    "pl": """
        dom ulica matka woda szkoła przyjaciel ogród okno poranek wieczór kuchnia most miasto dziecko kwiat ptak stół
        klucz niebo słońce deszcz zima lato praca gazeta kościół piekarz nauczyciel król córka pisać mówić biegać pić
        spać rozumieć szczęśliwy powoli szybko między mało zawsze nigdy razem wczoraj dzisiaj może uprzejmy trudny
        możliwy ważny młody bogaty ciemny piękny biały zielony żółty czarny koń but ser jajko mleko butelka liść
        chrząszcz
    """,
    "tr": """
        ev sokak anne su okul arkadaş bahçe pencere sabah akşam mutfak köprü şehir çocuk çiçek kuş masa anahtar gökyüzü
        güneş yağmur kış yaz iş gazete kilise fırıncı öğretmen kral kız yazmak konuşmak koşmak içmek uyumak anlamak
        mutlu yavaş hızlı arasında az daima asla birlikte dışarıda dün bugün belki nazik zor mümkün önemli genç zengin
        karanlık güzel beyaz yeşil sarı siyah at ayakkabı peynir yumurta süt şişe yaprak
    """,
    "cs": """
        dům ulice matka voda škola přítel zahrada okno ráno večer kuchyně most město dítě květina pták stůl klíč nebe
        slunce déšť zima léto práce noviny kostel pekař učitel král dcera psát mluvit běžet pít spát rozumět šťastný
        pomalu rychle třicet
    """,
    "hu": """
        ház utca anya víz iskola barát kert ablak reggel este konyha híd város gyerek virág madár asztal kulcs ég nap
        eső tél nyár munka újság templom pék tanár király lány írni beszélni futni inni aludni érteni boldog lassan
        gyorsan között
    """,
    "id": """
        rumah jalan ibu air sekolah teman kebun jendela pagi malam dapur jembatan kota anak bunga burung meja kunci
        langit matahari hujan musim kerja koran gereja guru raja menulis berbicara berlari minum tidur mengerti bahagia
        pelan cepat antara sedikit selalu bersama
    """,
    "nl": """
        huis straat moeder water school vriend tuin venster morgen avond keuken brug stad kind bloem vogel tafel sleutel
        hemel zon regen winter zomer werk krant kerk bakker leraar koning dochter schrijven spreken lopen drinken
        slapen begrijpen gelukkig langzaam snel tussen
    """,
    "pt": """
        casa rua mãe água escola amigo jardim janela manhã noite cozinha ponte cidade criança flor pássaro mesa chave
        céu chuva inverno verão trabalho jornal igreja padeiro professor rei filha escrever falar correr beber dormir
        entender feliz devagar rápido pouco coração
    """,
    "ro": """
        casă stradă mamă apă școală prieten grădină fereastră dimineață seară bucătărie pod oraș copil floare pasăre
        masă cheie cer soare ploaie iarnă vară muncă ziar biserică brutar profesor rege fiică scrie vorbi alerga bea
        dormi înțelege fericit încet repede puțin
    """,
    "ru": """
        дом улица мать вода школа друг сад окно утро вечер кухня мост город ребёнок цветок птица стол ключ небо солнце
        дождь зима лето работа газета церковь пекарь учитель король дочь писать говорить бежать пить спать понимать
        счастливый медленно быстро между
    """,
    "sv": """
        hus gata mor vatten skola vän trädgård fönster morgon kväll kök bro stad barn blomma fågel bord nyckel himmel
        sol regn vinter sommar arbete tidning kyrka bagare lärare kung dotter skriva tala springa dricka sova förstå
        lycklig långsamt snabbt mellan
    """,
}
"""Common words of the other languages; spoken in random order, with numbers in digits between them."""


def _half(words: str, parity: int) -> list[str]:
    return words.split()[parity::2]


def _plural(noun: str) -> str:
    if noun in PLURALS:
        return PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeou" else noun + "s"


def english_sentence(rng: np.random.Generator, words: int, parity: int = 0) -> str:
    """Lower-case words, apostrophes and spaces; at least ``words`` words, in whole clauses."""
    vocabulary = {kind: _half(text, parity) for kind, text in ENGLISH.items()}

    def pick(kind: str) -> str:
        return str(rng.choice(vocabulary[kind]))

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    def thing() -> str:
        adjective = pick("adjective") + " " if chance(0.5) else ""
        form = rng.integers(6)
        if form == 0:
            return f"{pick('name')}'s {adjective}{pick('noun')}"
        if form == 1:
            return f"{pick('number')} {adjective}{_plural(pick('noun'))}"
        determiner = rng.choice(["the", "the", "my", "our", "this", "every", "that", "his", "her"])
        return f"{determiner} {adjective}{pick('noun')}"

    def clause() -> str:
        subject = pick("name") if chance(0.2) else thing()
        verb = pick("verb")
        form = rng.integers(5)
        if form == 0:
            action = f"{rng.choice(['didn', 'couldn', 'wouldn', 'can'])}'t {verb}"
        elif form == 1:
            action = f"{rng.choice(['will', 'must', 'should', 'may'])} {verb}"
        else:
            action = IRREGULAR.get(verb, verb + "ed")
        place = f"{rng.choice(['near', 'behind', 'under', 'with', 'without', 'for', 'from'])} {thing()}"
        words = [subject, action, thing()]
        if chance(0.4):
            words.append(place)
        if chance(0.4):
            words.append(pick("adverb"))
        return " ".join(words)

    text = clause()
    while len(text.split()) < words:
        text += f" {rng.choice(['and', 'but', 'because', 'while', 'when', 'before', 'so'])} {clause()}"
    return text


def sentence(rng: np.random.Generator, language: str, words: int, parity: int = 0) -> str:
    """About ``words`` words in a language; ``parity`` chooses the half of the vocabulary and of the numbers."""
    if language == "en":
        return english_sentence(rng, words, parity)
    vocabulary = _half(WORDS[language], parity)
    spoken = []
    for _ in range(words):
        number = rng.random() < 0.2
        spoken.append(str(2 * rng.integers(1, 1000) + parity) if number else str(rng.choice(vocabulary)))
        if rng.random() < 0.15:
            spoken[-1] += ","
    return " ".join(spoken)


def words_in(rng: np.random.Generator, seconds: float) -> int:
    """A number of words that takes at least ``seconds`` to say."""
    return int(seconds * 3) + int(rng.integers(2, 6))
