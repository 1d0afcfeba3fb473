"""The words of the phrasebook: tables of English and German, and what may sensibly be said with them.

Here live words only, with the forms that no rule gives and the kinds that keep the sentences sensible (people read texts,
dogs do not). How words are inflected and put in order is `lmx.data.phrasebook`'s.

Each English entry has one German counterpart within its table, so that an English sentence has one translation. `you` is
the familiar `du`. Professions take the masculine form unless English names a woman (actress, waitress).
"""

# Short names for unions of kinds. A noun's own name (spaces as underscores) is also a kind.
GROUPS: dict[str, str] = {
    "living": "person animal infant",
    "food": "fruit vegetable baked dish grocery",
    "object": "clothing vehicle furniture container crockery tool device instrument thing text picture",
    "portable": "clothing container crockery tool instrument thing text picture",
    "place": "building room outdoors",
    "ware": "food drink clothing vehicle furniture container crockery tool device instrument thing text picture plant",
    "sight": "person animal vehicle building plant picture outdoors",
    "colored": "clothing vehicle furniture container crockery thing door flower",
    "openable": "opening container drawer",
}

# Heading: kinds. Entry: english[/plural]: article noun, plural. `*` marks the n-declension (den Jungen, dem Jungen), `~` the
# genitive in -es (of people only, the others need none), `-` a noun without plural.
NOUNS = """
[person]
man/men: der Mann~, Männer; woman/women: die Frau, Frauen; child/children: das Kind~, Kinder; boy: der Junge*, Jungen
girl: das Mädchen, Mädchen; lady/ladies: die Dame, Damen;
[person kin]
father: der Vater, Väter
mother: die Mutter, Mütter; brother: der Bruder, Brüder; sister: die Schwester, Schwestern; son: der Sohn~, Söhne
daughter: die Tochter, Töchter; uncle: der Onkel, Onkel; aunt: die Tante, Tanten; cousin: der Cousin, Cousins
grandfather: der Großvater, Großväter; grandmother: die Großmutter, Großmütter; [person]
friend: der Freund~, Freunde
neighbor: der Nachbar*, Nachbarn; guest: der Gast~, Gäste; teacher: der Lehrer, Lehrer; pupil: der Schüler, Schüler
student: der Student*, Studenten; colleague: der Kollege*, Kollegen; boss/bosses: der Chef, Chefs
customer: der Kunde*, Kunden; cook: der Koch, Köche; baker: der Bäcker, Bäcker; butcher: der Metzger, Metzger
farmer: der Bauer*, Bauern; gardener: der Gärtner, Gärtner; painter: der Maler, Maler; musician: der Musiker, Musiker
author: der Autor, Autoren; singer: der Sänger, Sänger; actress/actresses: die Schauspielerin, Schauspielerinnen
dancer: die Tänzerin, Tänzerinnen; waitress/waitresses: die Kellnerin, Kellnerinnen
nurse: die Krankenschwester, Krankenschwestern; driver: der Fahrer, Fahrer; pilot: der Pilot*, Piloten
mechanic: der Mechaniker, Mechaniker; engineer: der Ingenieur, Ingenieure; carpenter: der Tischler, Tischler
lawyer: der Anwalt, Anwälte; journalist: der Journalist*, Journalisten; policeman/policemen: der Polizist*, Polizisten
tourist: der Tourist*, Touristen; king: der König, Könige; queen: die Königin, Königinnen; prince: der Prinz*, Prinzen
princess/princesses: die Prinzessin, Prinzessinnen; witch/witches: die Hexe, Hexen
[infant]
baby/babies: das Baby, Babys
[person healer]
doctor: der Arzt~, Ärzte; dentist: der Zahnarzt~, Zahnärzte
[person hunting]
hunter: der Jäger, Jäger
[animal pet]
rabbit: das Kaninchen, Kaninchen; parrot: der Papagei, Papageien
[animal pet hunting]
dog: der Hund, Hunde; cat: die Katze, Katzen
[animal farm pet]
horse: das Pferd, Pferde; donkey: der Esel, Esel
[animal farm]
cow: die Kuh, Kühe; pig: das Schwein, Schweine; goat: die Ziege, Ziegen; hen: die Henne, Hennen; duck: die Ente, Enten
goose/geese: die Gans, Gänse; lamb: das Lamm, Lämmer
[animal wild]
bird: der Vogel, Vögel; mouse/mice: die Maus, Mäuse; frog: der Frosch, Frösche; monkey: der Affe*, Affen
elephant: der Elefant*, Elefanten; snake: die Schlange, Schlangen
[animal wild hunting]
wolf/wolves: der Wolf, Wölfe; fox/foxes: der Fuchs, Füchse; bear: der Bär*, Bären; lion: der Löwe*, Löwen
tiger: der Tiger, Tiger
[fruit]
apple: der Apfel, Äpfel; pear: die Birne, Birnen; banana: die Banane, Bananen; orange: die Orange, Orangen
cherry/cherries: die Kirsche, Kirschen; strawberry/strawberries: die Erdbeere, Erdbeeren; plum: die Pflaume, Pflaumen
grape: die Traube, Trauben; lemon: die Zitrone, Zitronen
[vegetable]
tomato/tomatoes: die Tomate, Tomaten; potato/potatoes: die Kartoffel, Kartoffeln; carrot: die Karotte, Karotten
onion: die Zwiebel, Zwiebeln; cucumber: die Gurke, Gurken; mushroom: der Pilz, Pilze
[baked]
cake: der Kuchen, Kuchen; roll: das Brötchen, Brötchen; cookie: der Keks, Kekse; pancake: der Pfannkuchen, Pfannkuchen
bread/-: das Brot, -
[dish]
soup: die Suppe, Suppen; egg: das Ei, Eier; sausage: die Wurst, Würste; meat/-: das Fleisch, -; rice/-: der Reis, -
salad: der Salat, Salate; fish/-: der Fisch, -
[grocery]
cheese/-: der Käse, -; butter/-: die Butter, -; honey/-: der Honig, -; chocolate/-: die Schokolade, -
sugar/-: der Zucker, -; jam/-: die Marmelade, -; ham/-: der Schinken, -
[drink]
water/-: das Wasser, -; milk/-: die Milch, -; juice/-: der Saft, -; wine/-: der Wein, -; beer/-: das Bier, -
lemonade/-: die Limonade, -
[drink hotdrink]
coffee/-: der Kaffee, -; tea/-: der Tee, -
[text]
book: das Buch, Bücher; novel: der Roman, Romane; newspaper: die Zeitung, Zeitungen
magazine: die Zeitschrift, Zeitschriften; report: der Bericht, Berichte
[text tale]
story/stories: die Geschichte, Geschichten; fairy tale: das Märchen, Märchen; poem: das Gedicht, Gedichte
[text mail]
letter: der Brief, Briefe; postcard: die Postkarte, Postkarten; message: die Nachricht, Nachrichten
[text document]
contract: der Vertrag, Verträge; recipe: das Rezept, Rezepte
[picture]
picture: das Bild, Bilder; photo: das Foto, Fotos; painting: das Gemälde, Gemälde; map: die Landkarte, Landkarten
[show]
film: der Film, Filme; song: das Lied, Lieder
[clothing garment]
shirt: das Hemd, Hemden; blouse: die Bluse, Blusen; dress/dresses: das Kleid, Kleider; skirt: der Rock, Röcke
coat: der Mantel, Mäntel; jacket: die Jacke, Jacken; sweater: der Pullover, Pullover; suit: der Anzug, Anzüge
glove: der Handschuh, Handschuhe; sock: die Socke, Socken
[clothing]
tie: die Krawatte, Krawatten; hat: der Hut, Hüte; cap: die Mütze, Mützen; scarf/scarves: der Schal, Schals
belt: der Gürtel, Gürtel
[clothing garment footwear]
shoe: der Schuh, Schuhe; boot: der Stiefel, Stiefel
[vehicle road]
car: das Auto, Autos; truck: der Lastwagen, Lastwagen; motorcycle: das Motorrad, Motorräder; taxi: das Taxi, Taxis
tractor: der Traktor, Traktoren
[vehicle cycle]
bicycle: das Fahrrad, Fahrräder
[vehicle transit]
bus/buses: der Bus, Busse; train: der Zug, Züge; tram: die Straßenbahn, Straßenbahnen; ship: das Schiff, Schiffe
[vehicle]
boat: das Boot, Boote
[furniture surface]
table: der Tisch, Tische; desk: der Schreibtisch, Schreibtische; cupboard: der Schrank, Schränke
shelf/shelves: das Regal, Regale
[furniture]
mirror: der Spiegel, Spiegel
[furniture surface seat]
chair: der Stuhl, Stühle; sofa: das Sofa, Sofas; bed: das Bett, Betten; bench/benches: die Bank, Bänke
armchair: der Sessel, Sessel; carpet: der Teppich, Teppiche
[container]
bag: die Tasche, Taschen; suitcase: der Koffer, Koffer; box/boxes: die Kiste, Kisten; package: das Paket, Pakete
[crockery]
plate: der Teller, Teller; cup: die Tasse, Tassen; bowl: die Schüssel, Schüsseln; glass/glasses: das Glas, Gläser
vase: die Vase, Vasen; bottle: die Flasche, Flaschen; pot: der Topf, Töpfe; jug: der Krug, Krüge
[tool]
knife/knives: das Messer, Messer; fork: die Gabel, Gabeln; spoon: der Löffel, Löffel; hammer: der Hammer, Hämmer
saw: die Säge, Sägen; broom: der Besen, Besen; pencil: der Bleistift, Bleistifte
[device]
lamp: die Lampe, Lampen; radio: das Radio, Radios; computer: der Computer, Computer
television: der Fernseher, Fernseher; machine: die Maschine, Maschinen
[instrument]
piano: das Klavier, Klaviere; guitar: die Gitarre, Gitarren; violin: die Geige, Geigen; flute: die Flöte, Flöten
[thing]
key: der Schlüssel, Schlüssel; ring: der Ring, Ringe; coin: die Münze, Münzen; gift: das Geschenk, Geschenke
umbrella: der Regenschirm, Regenschirme; candle: die Kerze, Kerzen; basket: der Korb, Körbe
pillow: das Kissen, Kissen; blanket: die Decke, Decken; towel: das Handtuch, Handtücher
stone: der Stein, Steine; bucket: der Eimer, Eimer; clock: die Uhr, Uhren; camera: die Kamera, Kameras; ticket: die Fahrkarte, Fahrkarten; rope: das Seil, Seile
[thing toy]
ball: der Ball, Bälle; doll: die Puppe, Puppen; kite: der Drachen, Drachen
[plant flower]
flower: die Blume, Blumen; rose: die Rose, Rosen; tulip: die Tulpe, Tulpen
[plant]
tree: der Baum, Bäume; bush/bushes: der Busch, Büsche
[opening]
door: die Tür, Türen; window: das Fenster, Fenster; gate: das Tor, Tore; drawer: die Schublade, Schubladen
[building]
house: das Haus, Häuser; school: die Schule, Schulen; church/churches: die Kirche, Kirchen
castle: das Schloss, Schlösser; hotel: das Hotel, Hotels; restaurant: das Restaurant, Restaurants
museum: das Museum, Museen; theater: das Theater, Theater; hospital: das Krankenhaus, Krankenhäuser
library/libraries: die Bibliothek, Bibliotheken; bakery/bakeries: die Bäckerei, Bäckereien; office: das Büro, Büros
factory/factories: die Fabrik, Fabriken; station: der Bahnhof, Bahnhöfe; airport: der Flughafen, Flughäfen
stable: der Stall, Ställe; tower: der Turm, Türme; bridge: die Brücke, Brücken; cottage: die Hütte, Hütten
[room]
kitchen: die Küche, Küchen; bathroom: das Badezimmer, Badezimmer; bedroom: das Schlafzimmer, Schlafzimmer
living room: das Wohnzimmer, Wohnzimmer; cellar: der Keller, Keller; garage: die Garage, Garagen
workshop: die Werkstatt, Werkstätten; apartment: die Wohnung, Wohnungen
[outdoors]
garden: der Garten, Gärten; park: der Park, Parks; forest: der Wald, Wälder; city/cities: die Stadt, Städte
village: das Dorf, Dörfer; market: der Markt, Märkte; street: die Straße, Straßen; beach/beaches: der Strand, Strände
lake: der See, Seen; river: der Fluss, Flüsse; mountain: der Berg, Berge; island: die Insel, Inseln
meadow: die Wiese, Wiesen; field: das Feld, Felder; playground: der Spielplatz, Spielplätze
balcony/balconies: der Balkon, Balkone; roof: das Dach, Dächer; hill: der Hügel, Hügel
[thought]
question: die Frage, Fragen; answer: die Antwort, Antworten; sentence: der Satz, Sätze; word: das Wort, Wörter
rule: die Regel, Regeln; problem: das Problem, Probleme; task: die Aufgabe, Aufgaben; mistake: der Fehler, Fehler
plan: der Plan, Pläne; secret: das Geheimnis, Geheimnisse; idea: die Idee, Ideen; language: die Sprache, Sprachen
joke: der Witz, Witze; bill: die Rechnung, Rechnungen; dream: der Traum, Träume
"""

# place: English and German preposition of rest (with the dative) | English and German preposition of direction; the German
# one takes the accusative, `zu` the dative. A dash stands where a direction is not said.
PLACES = """
house: in in | into in; school: at in | to zu; church: in in | into in; castle: in in | to zu; hotel: in in | to in
restaurant: in in | to in; museum: in in | to in; theater: in in | to in; hospital: in in | to in
library: in in | to in; bakery: in in | to zu; office: in in | to in; factory: in in | to in
station: at an | to zu; airport: at an | to zu; stable: in in | into in; tower: in in | into in; bridge: on auf | to zu
cottage: in in | into in; kitchen: in in | into in; bathroom: in in | into in; bedroom: in in | into in
living room: in in | into in; cellar: in in | into in; garage: in in | into in; workshop: in in | into in
apartment: in in | into in; garden: in in | into in; park: in in | to zu; forest: in in | into in; city: in in | into in
village: in in | into in; market: at auf | to zu; street: on auf | onto auf; beach: on an | to zu; lake: at an | to zu
river: at an | to zu; mountain: on auf | to zu; island: on auf | to auf; meadow: on auf | onto auf; field: on auf | onto auf
playground: at auf | to zu; balcony: on auf | onto auf; roof: on auf | onto auf; hill: on auf | onto auf
"""

# english: german[/stem before an ending] [comparatives] | kinds it describes, ! what it does not. Comparatives are given where the adjective is
# used in comparisons: english/german.
ADJECTIVES = """
old: alt older/älter | living !child !boy !girl !baby !lamb !pupil object building city village tree street
young: jung younger/jünger | person animal !grandfather !grandmother !lamb !child
new: neu newer/neuer | object building bridge street plan idea rule secret task film song
big: groß bigger/größer | animal vehicle furniture container crockery building room outdoors fruit vegetable plant picture
small: klein smaller/kleiner | animal vehicle furniture container crockery tool device building room city village garden
tall: groß taller/größer | person tower tree castle
friendly: freundlich friendlier/freundlicher | person
nice: nett nicer/netter | person
polite: höflich politer/höflicher | person
happy: glücklich happier/glücklicher | person
sad: traurig sadder/trauriger | person film song tale
tired: müde/müd | living
hungry: hungrig hungrier/hungriger | living
thirsty: durstig thirstier/durstiger | living
angry: wütend | living
sick: krank | living
healthy: gesund healthier/gesünder | person fruit vegetable
strong: stark stronger/stärker | living coffee rope
weak: schwach weaker/schwächer | person tea
brave: mutig braver/mutiger | living
lazy: faul lazier/fauler | person cat donkey dog
diligent: fleißig | person
clever: klug cleverer/klüger | person dog cat parrot fox monkey plan idea answer
stupid: dumm | plan idea question joke answer goose donkey
famous: berühmt | person castle museum painting novel song film tower bridge
rich: reich richer/reicher | person city
poor: arm poorer/ärmer | person village
honest: ehrlich | person answer
curious: neugierig | living
shy: schüchtern | person
strict: streng stricter/strenger | teacher father mother boss policeman rule king queen grandfather aunt
proud: stolz prouder/stolzer | person horse lion
patient: geduldig | person donkey
lonely: einsam | person island cottage street
cheerful: fröhlich | person song
nervous: nervös | person horse dog hen
modest: bescheiden | person
beautiful: schön | woman princess queen actress horse bird clothing picture flower plant city village island lake song dream
ugly: hässlich uglier/hässlicher | witch clothing furniture building picture frog
fat: dick fatter/dicker | man king cook cat pig hen goose baker
slim: schlank | woman dancer actress man
blind: blind | man woman horse dog mouse
wild: wild wilder/wilder | horse wild duck goose cat river garden
tame: zahm | bird fox monkey parrot goose lion
dangerous: gefährlich | snake wolf bear lion tiger street knife saw machine plan mountain
fast: schnell faster/schneller | vehicle horse dog computer
slow: langsam slower/langsamer | donkey horse train truck bus ship tractor computer
red: rot | colored apple cherry tomato tulip wine
blue: blau | colored
green: grün | colored apple bush pear
yellow: gelb | colored bird lemon
black: schwarz | colored cat dog horse coffee
white: weiß | colored cat horse goose wine
brown: braun | clothing furniture container horse cow bear
gray: grau | clothing vehicle cat mouse donkey wolf goose
colorful: bunt | bird parrot scarf blouse carpet vase kite flower umbrella shirt sock blanket pillow
expensive: teuer/teur | clothing vehicle furniture device instrument ring camera clock restaurant hotel gift apartment wine
cheap: billig cheaper/billiger | clothing vehicle furniture device instrument camera clock hotel restaurant wine ticket
heavy: schwer heavier/schwerer | furniture container machine hammer pot stone coat boot basket blanket gate
light: leicht lighter/leichter | bag suitcase jacket box package chair bicycle blanket
broken: kaputt | device vehicle instrument chair table clock camera umbrella toy door window gate drawer shoe bed sofa
clean: sauber cleaner/sauberer | clothing crockery tool room window towel water beach hotel
dirty: schmutzig dirtier/schmutziger | clothing crockery tool room window towel vehicle street pig
long: lang longer/länger | letter novel story film coat skirt dress scarf rope knife street bridge river sentence word
short: kurz shorter/kürzer | letter story poem film skirt rope sentence answer word report
wide: breit wider/breiter | street river bed bridge belt gate shelf
narrow: schmal narrower/schmaler | street bridge bed shelf door belt
round: rund | table window carpet bowl mirror tower vase
empty: leer | crockery container basket drawer room street house theater beach restaurant bus stable
full: voll fuller/voller | crockery container basket bus train theater
modern: modern | building furniture device apartment kitchen bathroom bridge train ship painting
comfortable: bequem | seat shoe boot coat hotel apartment pillow
warm: warm warmer/wärmer | coat jacket sweater scarf glove sock cap blanket milk soup water room
cold: kalt colder/kälter | water milk beer juice lemonade soup lake river cellar bathroom house
hot: heiß hotter/heißer | coffee tea soup water milk pot
fresh: frisch fresher/frischer | fruit vegetable bread roll fish meat milk butter egg flower juice salad
sweet: süß sweeter/süßer | fruit cake cookie honey jam wine juice lemonade pancake tea
sour: sauer/saur | lemon apple cherry plum grape milk
delicious: köstlich | food
ripe: reif riper/reifer | fruit tomato
dry: trocken | bread wine towel clothing
wet: nass | clothing towel umbrella dog street meadow
soft: weich softer/weicher | pillow blanket bed sofa towel carpet bread butter armchair
hard: hart harder/härter | bread bench bed chair cheese
sharp: scharf sharper/schärfer | knife saw
thick: dick thicker/dicker | book blanket rope sweater coat soup
thin: dünn thinner/dünner | rope blanket book shirt soup
golden: golden | ring key clock bowl cup
dark: dunkel/dunkl darker/dunkler | cellar street forest stable suit coat room bread
bright: hell brighter/heller | lamp apartment kitchen room office living_room
loud: laut louder/lauter | radio machine street motorcycle factory city
quiet: ruhig quieter/ruhiger | village street hotel island library lake garden park
interesting: interessant | text film museum picture question idea city
boring: langweilig | text film museum task report
exciting: spannend | novel story film tale book
funny: lustig funnier/lustiger | film song joke story picture monkey postcard boy uncle
important: wichtig | letter message contract report question rule task document word idea
difficult: schwierig | question task problem language sentence word rule
easy: einfach easier/einfacher | question task rule recipe sentence
strange: seltsam | dream story picture answer guest neighbor message word idea
wrong: falsch | answer word sentence
valuable: wertvoll | painting ring clock coin violin book gift vase
useful: nützlich | tool device book gift map rule machine answer
elegant: elegant | suit dress coat hat lady shoe restaurant
secret: geheim | message plan letter garden document
deep: tief deeper/tiefer | lake river pot bowl cellar drawer
foreign: fremd | city language word coin village
German: deutsch | text show word coin newspaper wine beer
French: französisch | text show word wine cheese language
Italian: italienisch | text show dish restaurant wine shoe suit
"""

# english[/past[/participle]] [rest]: rest starting with + moves behind a pronoun (picks me up). German: infinitive
# [er-form] [participle] [sein], `-` where the rule holds, prefix-infinitive where it separates. Then subjects > objects and
# marks: `once` is not said of the same thing often, `state` takes neither manner nor permission, `plural` wants objects in
# the plural, `manner` takes slowly, quietly and such, `place` is done somewhere, `whole` wants a definite object, `mishap` is not meant to be, `bound` always has its place, `noperfect`
# is said in the present only.
TRANSITIVE = """
buy/bought | kaufen | person > ware | once place
sell/sold | verkaufen | person > food clothing vehicle furniture container crockery instrument device plant picture | once place
find/found | finden - gefunden | living > portable pet mushroom egg toy hunter | once mishap place
look for | suchen | person > portable pet device person | place
lose/lost | verlieren - verloren | person > portable pet | once mishap place
see/saw/seen | sehen sieht gesehen | living > sight | state place
hear/heard | hören | living > song animal person machine radio | state place
love/loved | lieben | person > person infant pet island city village garden song language | state noperfect
like | mögen mag gemocht | person > food drink animal clothing city tale show | state noperfect
hate/hated | hassen | person > vegetable coffee snake mouse city tie joke machine | state noperfect
know/knew/known | kennen - gekannt | person > person song city village tale castle language restaurant secret | state noperfect
visit | besuchen | person > person castle museum city village church island |
meet/met | treffen trifft getroffen | person > person | place
greet | begrüßen | person > person | politely shyly place
ask | fragen | person > person | politely quietly
praise | loben | person > person |
hug/hugged | umarmen - umarmt | person > person infant |
kiss | küssen | person > person frog |
comfort | trösten | person > child boy girl baby brother sister friend daughter son mother princess | patiently quietly
disturb | stören | living > person cat dog | state
accompany | begleiten | person > person |
miss | vermissen | person > person pet city village | state
rescue/rescued | retten | person > living | once
watch | beobachten | living > animal person | secretly patiently quietly place
photograph | fotografieren | person > living building plant outdoors vehicle | secretly quickly
draw/drew/drawn | zeichnen | person > animal person plant map building house | place
paint | malen | person > picture flower animal person castle tree | place
admire/admired | bewundern | person > actress singer painting castle flower tower king dancer musician clothing picture | state
describe/described | beschreiben - beschrieben | person > person building picture plan dream city | patiently slowly
recognize/recognized | erkennen - erkannt | living > person song | state
read/read | lesen liest gelesen | person > text | slowly quickly quietly secretly place
write/wrote/written | schreiben - geschrieben | person > text sentence word | slowly quickly quietly place
translate/translated | übersetzen - übersetzt | person > text sentence word song | slowly quickly carefully
sign | unterschreiben - unterschrieben | person > contract letter report postcard | once
burn | verbrennen - verbrannt | person > letter photo contract postcard | once secretly quickly
eat/ate/eaten | essen isst gegessen | person > food | slowly quickly quietly place
eat/ate/eaten | fressen frisst gefressen | dog cat wolf fox bear lion tiger snake > meat fish sausage egg cheese ham | slowly quickly place
eat/ate/eaten | fressen frisst gefressen | farm rabbit elephant monkey parrot bird mouse > fruit carrot bread potato cucumber flower tomato cake | slowly quickly place
drink/drank/drunk | trinken - getrunken | person > drink | slowly quickly place
drink/drank/drunk | trinken - getrunken | animal > water milk | manner place
cook | kochen | person > soup egg rice meat potato fish sausage coffee tea | place
bake/baked | backen - gebacken | person > baked | place
cut/cut | schneiden - geschnitten | person > fruit vegetable bread cheese ham sausage cake rope | manner place
peel | schälen | person > potato apple onion carrot pear cucumber orange banana | manner place
taste/tasted | probieren | person > food drink | manner
order | bestellen | person > dish baked drink salad book |
wash | waschen wäscht gewaschen | person > clothing vehicle fruit vegetable towel blanket | slowly quickly carefully place
clean | putzen | person > room window footwear vehicle | slowly quickly carefully
sweep/swept | fegen | person > street kitchen balcony workshop garage | slowly quickly carefully
iron | bügeln | person > shirt blouse dress skirt suit | slowly quickly carefully place
sew/sewed/sewn | nähen | person > dress skirt shirt blouse coat pillow doll | place
repair | reparieren | person > vehicle device instrument furniture clock camera roof door window gate | manner place
break/broke/broken | zerbrechen zerbricht zerbrochen | person cat dog > crockery window | once mishap
build/built | bauen | person > house cottage bridge tower boat stable castle school | once
open | öffnen | person > opening container bottle letter | manner
close/closed | schließen - geschlossen | person > opening suitcase book bag | manner
carry/carried | tragen trägt getragen | person > container basket furniture baby child pot bucket instrument | carefully slowly
wear/wore/worn | tragen trägt getragen | person > clothing ring | state
pull | ziehen - gezogen | person horse donkey > boat rope box tractor bench suitcase | manner
push | schieben - geschoben | person > vehicle furniture box | manner
throw/threw/thrown | werfen wirft geworfen | person > ball stone rope towel pillow | place
catch/caught | fangen fängt gefangen | person > ball bird mouse frog fish animal | place
hold/held | halten hält/hältst gehalten | person > ball rope baby umbrella candle cup key knife basket cat bird hammer |
use/used | benutzen | person > tool device rope umbrella crockery towel camera | place
need | brauchen | person > tool device clothing umbrella key vehicle person idea plan map ticket furniture | state noperfect
forget/forgot/forgotten | vergessen vergisst vergessen | person > key umbrella word rule ticket bag answer dream camera person | once mishap
steal/stole/stolen | stehlen stiehlt gestohlen | person fox monkey > fruit egg cake sausage ring bicycle key clock coin hen painting bag | once place
hide/hid/hidden | verstecken | person dog monkey > key gift letter ring coin photo toy chocolate knife | once place
collect | sammeln | person > coin postcard mushroom painting clock doll stone toy | plural
count | zählen | person > coin animal book bottle tree plate chair ticket | plural slowly quickly carefully
pay/paid | bezahlen | person > bill ticket hotel taxi | once
rent | mieten | person > apartment house car boat bicycle cottage | once
answer | beantworten | person > question letter message | politely quickly patiently calmly
understand/understood | verstehen - verstanden | person > question sentence word rule joke plan language problem teacher person | state
learn | lernen | person > language poem song rule word | place
solve/solved | lösen | person > problem task | slowly quickly calmly
correct | korrigieren | person > mistake sentence report letter | slowly quickly carefully patiently
water | gießen - gegossen | person > plant | carefully slowly quickly
plant | pflanzen | person > plant potato strawberry onion | place
pick | pflücken | person > flower fruit | slowly quickly carefully place
feed/fed | füttern | person > pet farm bird elephant monkey bear | patiently carefully quietly place
hunt | jagen | hunting > fox bear duck rabbit mouse bird wolf goose |
chase/chased | verfolgen | living > person animal bus car | place
bite/bit/bitten | beißen - gebissen | animal > person animal | once
drive/drove/driven | fahren fährt gefahren | person > car truck taxi tractor bus | slowly quickly carefully whole
park | parken | person > car truck motorcycle taxi bus | carefully slowly quickly
examine/examined | untersuchen - untersucht | healer > person animal | carefully calmly patiently
pack | packen | person > suitcase bag package box | manner
prefer/preferred | bevorzugen | person > food drink clothing text | state noperfect
"""

SEPARABLE = """
call | an-rufen - angerufen | person > person |
invite/invited | ein-laden lädt eingeladen | person > person |
pick +up | ab-holen | person > person package ticket suitcase | place
wake/woke/woken | auf-wecken | living > person dog cat | quietly carefully
turn on | ein-schalten | person > device | manner
turn off | aus-schalten | person > device | manner
put/put on | an-ziehen - angezogen | person > garment | manner
take/took/taken off | aus-ziehen - ausgezogen | person > garment | manner
try/tried on | an-probieren | person > clothing |
shut/shut | zu-machen | person > opening container | quietly carefully slowly quickly
lock | ab-schließen - abgeschlossen | person > door gate house car drawer office apartment bicycle cellar garage cottage | carefully quickly
tidy/tidied up | auf-räumen | person > room desk cupboard shelf office | quickly slowly
unpack | aus-packen | person > suitcase gift package bag box | slowly carefully quickly secretly
wrap/wrapped up | ein-packen | person > gift book toy crockery picture thing | manner
bring/brought along | mit-bringen - mitgebracht | person > food portable gift pet friend |
take/took/taken along | mit-nehmen nimmt mitgenommen | person > umbrella camera clothing dog friend child container map text |
throw/threw/thrown away | weg-werfen wirft weggeworfen | person > portable furniture ticket | once
write/wrote/written down | auf-schreiben - aufgeschrieben | person > word sentence rule story dream answer idea recipe | quickly slowly
read/read aloud | vor-lesen liest vorgelesen | person > text sentence | slowly loudly patiently
look at | an-schauen | person > picture photo map building film painting animal flower clothing | quietly calmly
hang/hung up | auf-hängen | person > picture painting map coat jacket clock lamp clothing mirror | manner
eat/ate/eaten up | auf-essen isst aufgegessen | person > food | once whole
drink/drank/drunk up | aus-trinken - ausgetrunken | person > drink | once whole
light/lit | an-zünden | person > candle lamp | carefully slowly quickly
prepare/prepared | vor-bereiten bereitet vorbereitet | person > task report dish | manner
cross out | durch-streichen - durchgestrichen | person > word sentence mistake answer | once
copy/copied | ab-schreiben - abgeschrieben | person > sentence poem word recipe letter answer |
put/put away | weg-räumen | person > crockery tool toy clothing text | manner
set/set up | auf-stellen | person > bed table shelf lamp furniture machine | place
"""

# Separable verbs without an object: english | german | subjects | manners and kinds of place.
SEPARABLE_INTRANSITIVE = """
get/got up | auf-stehen - aufgestanden sein | person | early late quickly
wake/woke/woken up | auf-wachen - aufgewacht sein | living | early late place
fall/fell/fallen asleep | ein-schlafen schläft eingeschlafen sein | living | early late quickly place static
arrive/arrived | an-kommen - angekommen sein | person transit | early late arrival
depart | ab-fahren fährt abgefahren sein | transit taxi tourist boss guest | early late quickly
go/went/gone away | weg-gehen - weggegangen sein | person | early late quickly quietly
come/came/come back | zurück-kommen - zurückgekommen sein | person pet | early late quickly origin
go/went/gone out | aus-gehen - ausgegangen sein | person | alone late
watch television | fern-sehen sieht ferngesehen | person | long alone place
get/got on | ein-steigen - eingestiegen sein | person | quickly slowly arrival
get/got off | aus-steigen - ausgestiegen sein | person | quickly slowly arrival
come/came/come along | mit-kommen - mitgekommen sein | person pet | direction
go/went/gone shopping | ein-kaufen | person | quickly alone shop
listen | zu-hören | person | patiently politely
participate/participated | teil-nehmen nimmt teilgenommen | person | alone late
"""

# english | german | subjects | the manners that fit, and the kinds of place (see `phrasebook.SETTINGS`) where it happens.
INTRANSITIVE = """
sleep/slept | schlafen schläft geschlafen | living | well badly long place static
laugh | lachen | person infant | loudly place
cry/cried | weinen | person infant | loudly long place
sing/sang/sung | singen - gesungen | person bird | loudly well badly place
dance/danced | tanzen | person | well badly slowly place
work | arbeiten | person | diligently long slowly place
play | spielen | person pet monkey lamb | quietly long place static
swim/swam/swum | schwimmen - geschwommen sein | person duck goose frog dog elephant | well quickly slowly water
run/ran/run | laufen läuft gelaufen sein | living | quickly slowly outside
jump | springen - gesprungen sein | living | high jump
wait | warten | person dog | patiently alone long place static
dream | träumen | person dog cat | long place
sit/sat | sitzen - gesessen | living | quietly alone static seat
live/lived | wohnen | person | alone abode city bound state noperfect
hike/hiked | wandern - gewandert sein | person | slowly alone outside
snore/snored | schnarchen | man grandfather dog bear uncle pig neighbor baker king guest brother | loudly place
smoke/smoked | rauchen | man woman grandfather uncle author painter guest boss | alone place
shout | schreien - geschrien | person monkey parrot donkey baby | loudly place
whisper | flüstern | person | quietly place
bark | bellen - gebellt | dog fox | loudly long place
study/studied | studieren | student daughter son girl boy brother sister cousin friend | diligently long place city
climb | klettern - geklettert sein | boy girl cat monkey bear child tourist goat prince | quickly slowly jump
fish | angeln | man boy grandfather uncle king father neighbor tourist son farmer | alone patiently shore
cough | husten | person | loudly place
smile/smiled | lächeln | person baby | politely shyly place
stay | bleiben - geblieben sein | living | alone long place city bound
rest | rasten | tourist driver hunter princess prince king | long place static
lie/lay/lain | liegen - gelegen | text towel blanket key ring ticket tool coin | objects
lie/lay/lain | liegen - gelegen | animal baby child | quietly place static seat
stand/stood | stehen - gestanden | crockery lamp basket radio box bucket | objects
stand/stood | stehen - gestanden | person road horse cow donkey | static
"""

# english | german | subjects > objects, each put somewhere: the place is a direction, in the accusative.
PUTTING = """
lay/laid | legen | person > text towel blanket key ring ticket tool coin gift | surface
place/placed | stellen | person > crockery lamp basket suitcase box chair bucket | surface
"""

# english | german | subjects | kinds of place.
MOTION = """
go/went/gone | gehen - gegangen sein | person | direction
drive/drove/driven | fahren fährt gefahren sein | person | destination journey
run/ran/run | laufen läuft gelaufen sein | living | direction
travel | reisen - gereist sein | person | journey
fly/flew/flown | fliegen - geflogen sein | person | journey
hurry/hurried | eilen - geeilt sein | person | direction
come/came/come | kommen - gekommen sein | living | direction origin
"""

# english | german | subjects > objects in the dative
DATIVE = """
help | helfen hilft geholfen | person > person | place
thank | danken | person > person | politely
trust | vertrauen | person > person pet | state
believe/believed | glauben | person > person | state
follow | folgen - gefolgt sein | living > person animal | slowly quickly secretly quietly
obey | gehorchen | child pupil pet princess boy girl son daughter > person |
forgive/forgave/forgiven | verzeihen - verziehen | person > person |
congratulate/congratulated | gratulieren | person > person | politely shyly
reply/replied to | antworten | person > person | politely quickly quietly calmly
listen to | zu-hören | person > person bird | manner
serve/served | dienen | lady cook hunter prince gardener pilot > king queen princess guest |
contradict | widersprechen widerspricht widersprochen | person > person |
wave/waved to | zu-winken | person > person |
belong to | gehören | object pet > person | state noperfect
"""

# english | german | subjects > receivers > things; `to` puts the receiver behind: explains the rule to the child.
DITRANSITIVE = """
give/gave/given | geben gibt gegeben | person > person > portable food toy key
show/showed/shown | zeigen | person > person > portable animal building room plan film vehicle
send/sent | schicken | person > person > mail text picture container gift flower
bring/brought | bringen - gebracht | person > person > portable food drink flower
lend/lent | leihen - geliehen | person > person > tool vehicle book umbrella instrument clothing camera
tell/told | erzählen | person > person > tale joke secret dream plan
buy/bought | kaufen | person > person > clothing toy fruit drink baked book ring flower ticket bicycle car
promise/promised | versprechen verspricht versprochen | person > person > gift ring bicycle dog horse cake
offer | an-bieten - angeboten | person > person > drink food seat
explain to | erklären | person > person > rule task problem plan word sentence question machine joke
recommend to | empfehlen empfiehlt empfohlen | person > person > text film restaurant hotel wine city
describe/described to | beschreiben - beschrieben | person > person > picture plan dream house animal
return to | zurück-geben gibt zurückgegeben | person > person > text tool umbrella vehicle clothing instrument ring
"""

# english with its preposition | german | German preposition and case | subjects > objects
PREPOSITIONAL = """
wait for | warten | auf acc | person > person bus train tram ship mail taxi
think/thought of | denken - gedacht | an acc | person > person pet gift task plan question
speak/spoke/spoken with | sprechen spricht gesprochen | mit dat | person > person
play with | spielen | mit dat | person pet > toy pet child
dream of | träumen | von dat | person > person castle island horse cake house ship
laugh at | lachen | über acc | person > joke person mistake film monkey hat
talk about | reden | über acc | person > person film plan problem novel task dream book
ask for | bitten - gebeten | um acc | person > drink bread answer key bill pencil blanket knife
work on | arbeiten | an dat | person > report novel task plan painting machine problem
fight/fought against | kämpfen | gegen acc | prince king lion bear wolf tiger hunter queen > king bear wolf lion snake prince
care/cared for | sorgen | für acc | person > person infant animal garden plant
dance/danced with | tanzen | mit dat | person > person
begin/began/begun with | beginnen - begonnen | mit dat | person > task report letter question salad soup
travel with | reisen - gereist sein | mit dat | person > person
"""

# english: german, in the order in which classes are named by the grammar.
TIMES = {
    "single": """
today: heute; now: jetzt; this evening: heute Abend; on Monday: am Montag; on Tuesday: am Dienstag
on Wednesday: am Mittwoch; on Thursday: am Donnerstag; on Friday: am Freitag; on Saturday: am Samstag
on Sunday: am Sonntag; this week: diese Woche; this afternoon: heute Nachmittag
""",
    "repeated": """
every day: jeden Tag; every morning: jeden Morgen; every evening: jeden Abend; every week: jede Woche
in the morning: am Morgen; in the evening: am Abend; at noon: am Mittag; in summer: im Sommer; in winter: im Winter
in spring: im Frühling; in autumn: im Herbst; on the weekend: am Wochenende; every Friday: jeden Freitag
every Sunday: jeden Sonntag; every Saturday: jeden Samstag
""",
    "past": """
yesterday: gestern; yesterday evening: gestern Abend; last week: letzte Woche; last month: letzten Monat
last year: letztes Jahr; last Sunday: letzten Sonntag; last Friday: letzten Freitag; two days ago: vor zwei Tagen
three weeks ago: vor drei Wochen; an hour ago: vor einer Stunde; the day before yesterday: vorgestern
a month ago: vor einem Monat; this morning: heute Morgen; last summer: letzten Sommer; last winter: letzten Winter
""",
    "future": """
tomorrow: morgen; tomorrow evening: morgen Abend; soon: bald; later: später; next week: nächste Woche
next month: nächsten Monat; next year: nächstes Jahr; in an hour: in einer Stunde; in two days: in zwei Tagen
the day after tomorrow: übermorgen; next Sunday: nächsten Sonntag; next summer: nächsten Sommer
""",
}
FREQUENCIES = "often: oft; always: immer; sometimes: manchmal; usually: meistens"
# These stand where `nicht` stands, behind a definite object.
LATE_FREQUENCIES = "never: nie; rarely: selten"
MANNERS = """
slowly: langsam; quickly: schnell; quietly: leise; loudly: laut; carefully: vorsichtig; calmly: ruhig
patiently: geduldig; secretly: heimlich; politely: höflich; well: gut; badly: schlecht; diligently: fleißig
for a long time: lange; alone: allein; high: hoch; early: früh; late: spät; shyly: schüchtern
"""
NAMES = "Anna; Peter; Maria; Paul; Emma; Martin; Clara; Stefan; Laura; Oskar; Julia; David"
CITIES = """
Berlin: Berlin; Munich: München; Vienna: Wien; Cologne: Köln; Hamburg: Hamburg; Zurich: Zürich; Rome: Rom; Paris: Paris
London: London; Prague: Prag; Lisbon: Lissabon; Warsaw: Warschau; Moscow: Moskau; Athens: Athen; Milan: Mailand
"""

# Kinds of place: English preposition, German preposition and case, nouns.
SETTINGS = {
    "static": """
under | unter dat | table tree bridge bench
behind | hinter dat | house church stable tree sofa cupboard hotel school museum bush door
next to | neben dat | table bed house church door window tree car bench castle
in front of | vor dat | house school church museum hotel door window castle theater station restaurant
""",
    "seat": "on | auf dat | chair sofa bed bench carpet",
    "objects": """
on | auf dat | table desk chair sofa bed shelf bench carpet
under | unter dat | table desk chair sofa bed bench
next to | neben dat | bed door table sofa window desk cupboard mirror
""",
    "surface": """
on | auf acc | table desk chair sofa bed shelf bench carpet
under | unter acc | table desk chair sofa bed bench
next to | neben acc | bed door table sofa window desk cupboard mirror
""",
    "jump": """
onto | auf acc | table chair sofa bed bench desk
over | über acc | bench bush chair stone rope
""",
    "abode": "in | in dat | house village city cottage castle hotel apartment",
    "water": "in | in dat | lake river",
    "shore": "at | an dat | lake river",
    "shop": "in | in dat | city village",
    "arrival": "at | an dat | station airport",
    "outside": """
through | durch acc | forest park city village garden field meadow
around | um acc | house lake castle church tree
in | in dat | park forest garden
""",
}
# What is at hand for some verbs: "cuts the bread with a knife".
INSTRUMENTS = "cut: knife; sweep: broom; write: pencil; draw: pencil; peel: knife; repair: hammer"
