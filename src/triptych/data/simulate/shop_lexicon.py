"""The generated shop's words: what its titles say, and what its shoppers say instead.

Each line reads ``value: own words | synonyms``; titles are written with own words only.
"""

from __future__ import annotations

from triptych.data.simulate.lexicon import Attribute, read_lexicon

TYPE = """
soup: cream soup, soup | potage, bisque, broth bowl
ramen: ramen, ramen bowl | noodle soup, asian noodles, udon
pizza: pizza | margherita, neapolitan pie, slice party
salad: salad, salad bowl | leafy greens, healthy bowl, garden lunch
curry: curry, curry rice | masala, korma, spiced stew
sushi: sushi, sushi set | nigiri, maki, raw fish rolls
dumplings: dumplings | gyoza, potstickers, momo
pie: lattice pie, pie | tart, crostata, fruit bake
donut: donut, donuts | doughnut, glazed ring, krapfen
cookies: cookies | biscuits, iced bakes, tea treats
burger: burger | hamburger, patty sandwich, slider
taco: taco, tacos | tortilla shell, mexican street food, carnitas
cake: layer cake, cake | gateau, birthday torte, celebration bake
cupcake: cupcake | fairy bake, muffin with frosting, mini sponge
macarons: macarons | french almond sweets, patisserie sandwich
ice cream: ice cream, ice cream cone | gelato, soft serve, frozen scoop
bubble tea: bubble tea | boba, pearl milk drink, tapioca drink
pancakes: pancakes, pancake stack | hotcakes, flapjacks, breakfast stack
juice: juice | smoothie, pressed fruit drink, refresher
mug: mug, coffee mug | cup, tea cup, beaker
teapot: teapot | tea kettle, brewing pot, infuser jug
vase: vase | flower holder, urn, bouquet jar
lamp: table lamp, lamp | bedside light, reading light, nightlight
candle: candle | scented wax jar, wick light, votive
plant pot: plant pot | planter, indoor greenery, succulent holder
armchair: armchair | lounge seat, accent seat, reading seat
cushion: cushion | throw pillow, sofa pillow, scatter pillow
rug: rug, area rug | carpet, floor mat, kilim
clock: wall clock, clock | timekeeper, hour dial, timepiece for the wall
tote bag: tote bag, tote | shopper, carryall, market bag
backpack: backpack | rucksack, school satchel, daypack
umbrella: umbrella | brolly, parasol, rain shade
sneaker: sneakers, sneaker | trainers, running shoes, kicks
cap: cap, baseball cap | headwear, peaked hat, sun visor
t-shirt: t-shirt, tee | short sleeve top, crew neck, jersey
dress: dress, midi dress | frock, gown, sundress
scarf: scarf | shawl, neck wrap, muffler
socks: socks | hosiery, ankle warmers, footsies
watch: wrist watch, watch | wristwear, chronograph, wrist timepiece
"""

COLOUR = """
red: red | scarlet, crimson, ruby, cherry
orange: orange | tangerine, apricot, pumpkin
yellow: yellow | lemon, mustard, sunny
green: green | emerald, olive, leafy tone
teal: teal | petrol, peacock, turquoise
blue: blue | azure, cobalt, sky tone
navy: navy | midnight, dark indigo, marine
purple: purple | violet, plum, lilac
pink: pink | rose, blush, bubblegum
brown: brown | chocolate, chestnut, cocoa
beige: beige | sand, ecru, oatmeal
black: black | jet, ebony, onyx
grey: grey | ash, silver, smoke
white: white | ivory, snowy, pearl
"""

PATTERN = """
plain: plain, solid | unpatterned, one tone, minimal
striped: striped | pinstripe, lined, with bands
dotted: polka dot, dotted | spotted, dotty, with spots
checked: checked, plaid | gingham, tartan, checkerboard
zigzag: zigzag | chevron, herringbone, jagged
floral: floral | flowery, botanical, blossoms
marbled: marbled, swirl | wavy, abstract veins, psychedelic
"""

SETTING = """
studio: studio shot | clean backdrop, catalogue style
marble: on marble | stone top, veined counter
walnut: on walnut | wooden table, rustic wood
slate: on slate | dark stone, charcoal table
linen: on linen | tablecloth, woven cloth
terrazzo: on terrazzo | speckled stone, chip floor
tiles: on tiles | ceramic squares, bathroom grid
"""

TRAIT = """
vegan: vegan, plant based | no animal, meatless
spicy: spicy, hot and spicy | fiery, with chili
organic: organic | bio, natural
gluten free: gluten free | coeliac safe, no wheat
family size: family size | large portion, to share
handmade: handmade | artisan, crafted by hand
eco friendly: eco friendly, recycled | sustainable, green choice
kids: kids | for children, little ones
luxury: luxury, deluxe | high end, exclusive
vintage: vintage, retro | old fashioned, antique look
"""


def shop_attributes() -> list[Attribute]:
    """What shoppers name in the generated shop; colour, pattern and setting are what a photo shows."""
    return [
        Attribute(column="type", head=True, words=read_lexicon(TYPE)),
        Attribute(column="colour", visual=True, weight=1.6, words=read_lexicon(COLOUR)),
        Attribute(column="pattern", visual=True, weight=0.6, words=read_lexicon(PATTERN)),
        Attribute(column="setting", visual=True, weight=0.06, words=read_lexicon(SETTING)),
        Attribute(column="trait", weight=0.5, words=read_lexicon(TRAIT)),
        Attribute(column="brand", weight=0.12),
    ]
