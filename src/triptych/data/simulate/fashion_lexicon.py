"""The shoppers' words for the fashion data: colours, types, genders, uses, seasons.

Each line reads ``value: own words | synonyms``. Own words are how the titles say it; synonyms are how other people do.
A few synonyms also occur in titles (golden, wine, rose, aqua, …), as in life.
"""

from __future__ import annotations

from triptych.data.simulate.lexicon import Attribute, read_lexicon

COLOUR = """
Black: black | jet, ebony, onyx, noir
Blue: blue | azure, cobalt, sapphire, cerulean
White: white | snowy, ivory white, chalk, alabaster
Grey: grey, gray | ash, smoke, slate, stone
Brown: brown | chocolate, chestnut, mocha, cocoa
Red: red | scarlet, crimson, ruby, cherry
Green: green | emerald, moss, forest, jade
Navy Blue: navy blue, navy | midnight, dark indigo, marine, deep sea
Purple: purple | violet, plum, aubergine, grape
Pink: pink | rose, blush, bubblegum, salmon
Beige: beige | sand, ecru, fawn, biscuit
Maroon: maroon | wine, oxblood, claret, garnet
Yellow: yellow | lemon, canary, sunshine, amber
Olive: olive | army, moss drab, military, avocado
Silver: silver | chrome, argent, pewter
Steel: steel | gunmetal, iron, stainless
Orange: orange | tangerine, apricot, pumpkin, saffron
Cream: cream | vanilla, eggshell, buttermilk, off ivory
Gold: gold | golden, gilded, brassy
Tan: tan | camel, caramel, toffee
Multi: multi | colourful, rainbow, many colours
Charcoal: charcoal | graphite, anthracite, soot
Khaki: khaki, khakhi | dust, safari, desert
Magenta: magenta | fuchsia, hot rose, cerise
Off White: off white | pearl, bone, milk
Copper: copper | rosegold, penny, bronze toned
Lavender: lavender | lilac, wisteria, periwinkle
Peach: peach | nectarine, melon, soft coral
Mustard: mustard | ochre, turmeric, dijon
Teal: teal | peacock, petrol, deep aqua
Rust: rust | brick, terracotta, burnt sienna
Coffee Brown: coffee brown, coffee | espresso, roast, java
Turquoise Blue: turquoise blue, turquoise | aqua, lagoon
Bronze: bronze | antique brass
Burgundy: burgundy | bordeaux, merlot
Grey Melange: grey melange, melange | heather, marl
Taupe: taupe | mushroom, mink
Metallic: metallic, metalic | shiny, mirror
Sea Green: sea green | seafoam, mint
Fluorescent Green: fluorescent green, fluorescent | neon, highlighter
Nude: nude | flesh toned
Skin: skin | bare toned
Mauve: mauve | dusky, heliotrope
"""

TYPE = """
Tshirts: tshirts, tshirt, t-shirt, t-shirts, tee | jersey top, crew neck, tees, casual knit
Shirts: shirt, shirts | button down, dress shirt, button up, collared top
Casual Shoes: casual shoes, casual shoe | sneakers, trainers, loafers, kicks
Tops: top, tops | blouse, camisole, upper wear
Kurtas: kurtas, kurta | long ethnic top, indian tunic, panjabi
Sports Shoes: sports shoes, sports shoe, running shoes | joggers, gym footwear, athletic footwear, runners
Watches: watch, watches | timepiece, wrist clock, chronometer
Handbags: handbag, handbags | purse, ladies bag, shoulder carry, tote
Heels: heels, heel | stilettos, pumps, high footwear
Sunglasses: sunglasses | shades, goggles, sun eyewear
Sweaters: sweater, sweaters | pullover, jumper, woolly, cardigan
Sandals: sandals, sandal | open toe footwear, strappy footwear, huaraches
Wallets: wallet, wallets | billfold, card holder, money purse
Flip Flops: flip flops, flip flop, slippers | thongs, beach footwear, chappals
Sweatshirts: sweatshirt, sweatshirts | hoodie, fleece top, track top
Belts: belt, belts | waist strap, girdle, buckle strap
Trousers: trousers, trouser | slacks, chinos, office bottoms
Formal Shoes: formal shoes, formal shoe | oxfords, derby footwear, office footwear, brogues
Jeans: jeans | denims, denim bottoms, dungarees
Socks: socks | hosiery, ankle wear, foot warmers
Jackets: jacket, jackets | windcheater, outerwear, bomber
Flats: flats, sandals | ballerinas, slip ons, flat footwear
Backpacks: backpack, backpacks | rucksack, school bag, knapsack
Briefs: briefs, brief | underpants, undies, underwear
Shorts: shorts | half bottoms, bermudas, knee length bottoms
Innerwear Vests: innerwear vest, innerwear, vest | undershirt, singlet, banian
Caps: cap, caps | baseball headwear, headgear, visor
Track Pants: track pants, track pant | sweat bottoms, gym bottoms, jogging bottoms
Ties: tie, ties | necktie, neckwear, cravat
Kurtis: kurtis, kurti | short ethnic top, short indian tunic
Clutches: clutch, clutches | evening purse, hand pouch
Dresses: dress, dresses | frock, gown, one piece
Mufflers: muffler, mufflers | winter neck wrap, woollen wrap
Accessory Gift Set: combo pack, accessory gift set | gift box, present set
Trunk: trunks, trunk | boxer shorts, boxers underwear
Skirts: skirts, skirt | mini bottom, pleated bottom
Scarves: scarf, scarves | neck wrap, bandana
Perfume and Body Mist: perfumes, perfume, body mist | scent, eau de toilette, cologne
Cufflinks: cufflinks | shirt studs, cuff buttons
Capris: capris | three quarter bottoms, cropped bottoms
Laptop Bag: laptop bag, bag | computer case, notebook sleeve
Tunics: tunics, tunic | long top, smock
Stockings: stockings | nylons, sheer legwear
Leggings: leggings | stretch bottoms, footless tights
Duffel Bag: duffle bag, duffel bag | gym holdall, travel holdall
Mobile Pouch: mobile pouch, pouch | phone case, phone sleeve
Deodorant: deo, deos, deodorant | body spray, antiperspirant
Tracksuits: tracksuits, tracksuit | jogging set, warm up suit
Sports Sandals: sandal, sandals | trekking floaters, hiking floaters
Gloves: gloves | mittens, hand warmers
Bra: bra | brassiere, bralette
Messenger Bag: messenger bag, bag | cross body satchel, courier satchel
Umbrellas: umbrella, umbrellas | brolly, rain cover
"""

GENDER = """
Men: men, mens, men's | gents, male, for him, guys
Women: women, womens, women's, woman | ladies, female, for her, lady
Unisex: unisex | for everyone, any gender
Boys: boys, boy, kids | young lad, for my son
Girls: girls, girl, kids | young miss, for my daughter
"""

USAGE = """
Casual: casual | everyday, relaxed, weekend
Formal: formal | office, business, boardroom
Sports: sports, sport, training | gym, athletic, workout
Ethnic: ethnic | traditional, festive, indian wear
Smart Casual: smart casual | semi dressy
Travel: travel | trip, journey
"""

SEASON = """
Fall: fall | autumn
Summer: summer | hot weather, sunny days
Winter: winter | cold weather, snow days
Spring: spring | springtime
"""


def fashion_attributes() -> list[Attribute]:
    """What shoppers name on the fashion data; the type is the head, the colour is what a photo shows."""
    return [
        Attribute(column="type", head=True, words=read_lexicon(TYPE)),
        Attribute(column="colour", visual=True, weight=2.0, words=read_lexicon(COLOUR)),
        Attribute(column="gender", weight=0.5, words=read_lexicon(GENDER)),
        Attribute(column="usage", weight=0.15, words=read_lexicon(USAGE)),
        Attribute(column="brand", weight=0.12),
        Attribute(column="season", weight=0.05, words=read_lexicon(SEASON)),
    ]
