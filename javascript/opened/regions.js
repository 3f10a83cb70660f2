// A unit's region: halves and what other units leave in one click, and the painter over the picture that counts.
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

    // Masks of units

    const keyOf = (tab, number) => tab.state.units[number - 1].region;
    const addressOf = (tab, key) => made[key] ?? JSON.parse(lineOf(tab)?.dataset.masks || "{}")[key];
    async function maskOf(tab, number) {
        const key = keyOf(tab, number);
        if (!key || !await ipAdapter.waitUntil(() => addressOf(tab, key), 5000)) return null;
        const picture = await ipAdapter.masks.load(addressOf(tab, key));
        const {canvasOf, take} = ipAdapter.masks;
        return take(canvasOf([picture.naturalWidth, picture.naturalHeight]), picture);
    }
    async function othersOf(tab, number) {
        const numbers = tab.state.units.map((_, i) => i + 1).filter((one) => one !== number && keyOf(tab, one));
        const masks = await Promise.all(numbers.map((one) => maskOf(tab, one)));
        return numbers.map((one, i) => ({number: one, mask: masks[i]})).filter(({mask}) => mask);
    }

    // What can be taken back says what it was.
    function change(tab, label, how) {
        ipAdapter.undo.act(tab, label, how);
    }
    async function put(tab, number, file, feather) {
        const key = ipAdapter.newKey();
        made[key] = URL.createObjectURL(file);
        const place = tab.element("region");
        place.classList.add("ip-adapter-arriving");
        change(tab, "drew the region", ({units}) => {
            units[number - 1].region = key;
            if (feather !== undefined) units[number - 1].region_feather = feather;
        });
        ipAdapter.pictures.addMask(tab, file, key);
        const isThere = () => key in JSON.parse(lineOf(tab)?.dataset.masks || "{}");
        await ipAdapter.waitUntil(() => isThere() || keyOf(tab, number) !== key || tab.state.shown !== number, 10_000);
        place.classList.remove("ip-adapter-arriving");
    }
    function forget(tab, number) {
        change(tab, "removed the region", ({units}) => { delete units[number - 1].region; });
    }

    // What the buttons do

    async function putPart(tab, number, name) {
        const {shape} = await ground(tab), {canvasOf, within, takePart, toPng} = ipAdapter.masks;
        await put(tab, number, await toPng(takePart(canvasOf(within(shape, LONGEST_SIDE)), name)));
    }
    // With the others' softness where they agree in it, so that the units make up one whole.
    async function putRest(tab, number) {
        const {shape} = await ground(tab), {canvasOf, within, takeRest, toPng} = ipAdapter.masks;
        const others = await othersOf(tab, number), {units} = tab.state;
        const softness = new Set(others.map((one) => Number(units[one.number - 1].region_feather ?? 0)));
        const mask = takeRest(canvasOf(within(shape, LONGEST_SIDE)), others.map((one) => one.mask));
        await put(tab, number, await toPng(mask), softness.size === 1 ? [...softness][0] : undefined);
    }
    async function paint(tab, number) {
        const key = keyOf(tab, number), feather = Number(tab.state.units[number - 1].region_feather ?? 0);
        const [{background, shape, fit}, others] = await Promise.all([ground(tab), othersOf(tab, number)]);
        return ipAdapter.paint({
            title: "Where the unit acts", background, shape, fit, longest: LONGEST_SIDE, others, number, feather,
            start: key ? addressOf(tab, key) ?? null : null,
        });
    }
    async function act(tab, number, name) {
        await ipAdapter.loadSubject("masks");
        if (name === "clear") return forget(tab, number);
        if (name === "rest") return putRest(tab, number);
        if (name !== "draw") return putPart(tab, number, name);
        await ipAdapter.loadSubject("paint");
        const answer = await paint(tab, number);
        focusOn(tab.element("region"), "[data-region=draw]");
        if (answer?.isRemoved) return forget(tab, number);
        if (answer) return put(tab, number, answer.file, answer.feather);
    }

    // Where the painter has been closed whose button was drawn anew meanwhile.
    function focusOn(place, selector) {
        if (document.activeElement === document.body) place.querySelector(selector)?.focus({preventScroll: true});
    }
    async function press(tab, number, name) {
        try {
            await act(tab, number, name);
        } catch (error) {
            console.warn("IP-Adapter:", error);
        }
    }
    return {press, focusOn};
})();
