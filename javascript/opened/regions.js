// Regions, of a unit and of its references: halves and what others leave in one click, and the painter over the picture
// that counts.
(window.ipAdapter ??= {}).regions = (() => {
    const LONGEST_SIDE = 1024;  // of a mask, in pixels
    const ROUNDING = 0.02;  // by how much pictures of the same form may differ in it
    const made = {};  // the masks of this page by their keys: addresses
    const lineOf = (tab) => tab.element("region").querySelector(".ip-adapter-region");

    // The picture that the region lies over, and the form of what is going to be made.

    const isOnView = (element) => element.style.display !== "none";
    const chosenIndex = (id) => {
        const fields = [...ipAdapter.byId(id)?.querySelectorAll("input[type=radio]") ?? []];
        return Math.max(0, fields.findIndex((field) => field.checked));
    };
    function sizeOf(tab) {
        const side = (name) => Number(ipAdapter.byId(`${tab.name}_${name}`)?.querySelector("input")?.value) || 512;
        return [side("width"), side("height")];
    }
    // Some hosts keep an element without a picture where there is none, and a canvas to paint on over one of Forge's.
    const hasPicture = (one) => one.matches("img") ? one.naturalWidth > 0 : isOnView(one) && one.width > 0;
    const picturesIn = (place) => place.querySelectorAll(place.querySelector("img.forge-image") ? "img" : "img, canvas");
    // The tab of img2img that is open has the picture that the job starts from.
    function inputGround(tab) {
        const places = [...ipAdapter.byId("mode_img2img")?.children ?? []].filter((one) => one.matches(".tabitem"));
        const place = places.find(isOnView) ?? ipAdapter.byId("img2img_image");
        const shape = sizeOf(tab), picture = place && [...picturesIn(place)].find(hasPicture);
        if (!picture) return {background: null, shape};
        const own = [picture.naturalWidth ?? picture.width, picture.naturalHeight ?? picture.height];
        const background = picture.src ?? picture.toDataURL();
        const byFactor = ipAdapter.byId("img2img_tab_resize_by"), isScaled = Boolean(byFactor && isOnView(byFactor));
        const isPart = places.indexOf(place) >= 2 && chosenIndex("img2img_inpaint_full_res") === 1;
        if (isScaled || isPart) return {background, shape: own};
        return {background, shape, fit: ["fill", "cover", "contain", "fill"][chosenIndex("resize_mode")]};
    }
    // Of the gallery the picture that is chosen; where that is a grid or a map of influence, the picture that it is of.
    function galleryPicture(tab) {
        const gallery = ipAdapter.byId(`${tab.name}_gallery`);
        const all = [...gallery?.querySelectorAll(".thumbnail-item") ?? []];
        const strip = all.filter((one) => one.closest(".thumbnails")), items = strip.length ? strip : all;
        const chosen = Math.max(0, items.findIndex((item) => item.matches(".selected")));
        const addressAt = (i) => items[i]?.querySelector("img")?.src;
        let told = null;
        try {
            told = JSON.parse(ipAdapter.byId(`generation_info_${tab.name}`).querySelector("textarea, input").value);
        } catch { /* nothing has been made yet */ }
        if (items.length < 2 || !told) return addressAt(chosen) ?? ipAdapter.pictures.pictureIn(tab.name);
        const {index_of_first_image: first = 0, all_seeds: seeds = [0], infotexts: texts = []} = told;
        if (chosen >= first && chosen < first + seeds.length) return addressAt(chosen);
        const own = [...seeds.keys()].map((i) => first + i);
        return addressAt(own.find((i) => texts[i] && texts[chosen]?.startsWith(texts[i])) ?? first);
    }
    async function ground(tab) {
        const given = tab.name === "img2img"
            ? inputGround(tab) : {background: galleryPicture(tab) ?? null, shape: sizeOf(tab)};
        if (!given.background || given.fit) return given;
        try {
            const {naturalWidth, naturalHeight} = await ipAdapter.masks.load(given.background);
            const share = naturalWidth / naturalHeight / (given.shape[0] / given.shape[1]);
            return {...given, fit: Math.abs(share - 1) < ROUNDING ? "fill" : "contain"};
        } catch {
            return {...given, background: null};
        }
    }

    // Masks, of a unit by its `number`, or of its reference with that `key`. Both have them at the same name.

    const imagesOf = ({units}, number) => units[number - 1].images ?? [];
    const holderOf = (state, {number, key}) =>
        key ? imagesOf(state, number).find((one) => one.key === key) ?? {} : state.units[number - 1];
    const keyOf = (tab, place) => holderOf(tab.state, place).region;
    const placeOf = (tab, {number, key}) => imagesOf(tab.state, number).findIndex((one) => one.key === key) + 1;
    const isAt = (one, other) => one.number === other.number && one.key === other.key;
    const addressOf = (tab, key) => made[key] ?? JSON.parse(lineOf(tab)?.dataset.masks || "{}")[key];
    async function maskOf(tab, place) {
        const key = keyOf(tab, place);
        if (!key || !await ipAdapter.waitUntil(() => addressOf(tab, key), 5000)) return null;
        const picture = await ipAdapter.masks.load(addressOf(tab, key));
        const {canvasOf, take} = ipAdapter.masks;
        return take(canvasOf([picture.naturalWidth, picture.naturalHeight]), picture);
    }
    // Other units', or the unit's other references'.
    function placesBeside(tab, place) {
        const all = place.key
            ? imagesOf(tab.state, place.number).map(({key}) => ({number: place.number, key}))
            : tab.state.units.map((_, i) => ({number: i + 1}));
        return all.filter((one) => !isAt(one, place) && keyOf(tab, one));
    }
    async function othersOf(tab, place) {
        const places = placesBeside(tab, place), masks = await Promise.all(places.map((one) => maskOf(tab, one)));
        return places.map((one, i) => ({
            unit: one.number, number: one.key ? placeOf(tab, one) : one.number, mask: masks[i],
        })).filter(({mask}) => mask);
    }

    // What can be taken back says what it was.
    function change(tab, label, how) {
        ipAdapter.undo.act(tab, label, how);
    }
    async function put(tab, at, file, feather) {
        if (at.key && !placeOf(tab, at)) return ipAdapter.references.tellGone(tab);
        const key = ipAdapter.newKey(), {number} = at;
        const label = at.key ? `drew the region of reference ${placeOf(tab, at)}` : "drew the region";
        made[key] = URL.createObjectURL(file);
        const place = tab.element("region");
        place.classList.add("ip-adapter-arriving");
        change(tab, label, (state) => {
            holderOf(state, at).region = key;
            if (feather !== undefined) state.units[number - 1].region_feather = feather;
        });
        ipAdapter.pictures.addMask(tab, file, key);
        const isThere = () => key in JSON.parse(lineOf(tab)?.dataset.masks || "{}");
        await ipAdapter.waitUntil(() => isThere() || keyOf(tab, at) !== key || tab.state.shown !== number, 10_000);
        place.classList.remove("ip-adapter-arriving");
    }
    function forget(tab, at) {
        const label = at.key ? `removed the region of reference ${placeOf(tab, at)}` : "removed the region";
        change(tab, label, (state) => { delete holderOf(state, at).region; });
    }

    // What the buttons do

    async function putPart(tab, at, name) {
        const {shape} = await ground(tab), {canvasOf, within, takePart, toPng} = ipAdapter.masks;
        await put(tab, at, await toPng(takePart(canvasOf(within(shape, LONGEST_SIDE)), name)));
    }
    // With the others' softness where they agree in it, so that the units make up one whole.
    async function putRest(tab, at) {
        const {shape} = await ground(tab), {canvasOf, within, takeRest, toPng} = ipAdapter.masks;
        const others = await othersOf(tab, at), {units} = tab.state;
        const softness = new Set(others.map((one) => Number(units[one.unit - 1].region_feather ?? 0)));
        const mask = takeRest(canvasOf(within(shape, LONGEST_SIDE)), others.map((one) => one.mask));
        await put(tab, at, await toPng(mask), softness.size === 1 ? [...softness][0] : undefined);
    }
    async function paint(tab, at) {
        const key = keyOf(tab, at), feather = Number(tab.state.units[at.number - 1].region_feather ?? 0);
        const [{background, shape, fit}, others] = await Promise.all([ground(tab), othersOf(tab, at)]);
        return ipAdapter.paint({
            title: at.key ? "Where the reference acts" : "Where the unit acts", isOfReference: Boolean(at.key),
            background, shape, fit, longest: LONGEST_SIDE, others, feather, number: at.key ? placeOf(tab, at) : at.number,
            start: key ? addressOf(tab, key) ?? null : null,
        });
    }
    async function act(tab, at, name) {
        await ipAdapter.loadSubject("masks");
        if (name === "clear") return forget(tab, at);
        if (name === "rest") return putRest(tab, at);
        if (name !== "draw") return putPart(tab, at, name);
        await ipAdapter.loadSubject("paint");
        const answer = await paint(tab, at);
        if (at.key) focusOn(tab.element("references"), `[data-key="${at.key}"] .ip-adapter-more`);
        else focusOn(tab.element("region"), "[data-region=draw]");
        if (answer?.isRemoved) return forget(tab, at);
        if (answer) return put(tab, at, answer.file, answer.feather);
    }

    // Where the painter has been closed whose button was drawn anew meanwhile.
    function focusOn(place, selector) {
        if (document.activeElement === document.body) place.querySelector(selector)?.focus({preventScroll: true});
    }
    // `at`: {number} of a unit, with the {key} of one of its references.
    async function press(tab, at, name) {
        try {
            await act(tab, at, name);
        } catch (error) {
            console.warn("IP-Adapter:", error);
        }
    }
    return {press, focusOn};
})();
