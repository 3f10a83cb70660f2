// The panel's part in the browser: which unit is shown, its references, pictures that are dropped, pasted or sent,
// presets, and the warning that follows the checkpoint.
const ipAdapter = (() => {
    const TABS = ["txt2img", "img2img"];
    const byId = (id) => gradioApp().getElementById(id);
    const part = (tab, name) => byId(`${tab}_ip_adapter_${name}`);
    const press = (id) => byId(id)?.click();
    const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
    async function until(condition, milliseconds) {
        for (const end = Date.now() + milliseconds; Date.now() < end; await pause(10)) {
            if (condition()) return true;
        }
        return false;
    }
    const newKey = () => [...crypto.getRandomValues(new Uint8Array(6))].map((x) => x.toString(16).padStart(2, "0")).join("");

    // Hidden boxes, and the sheet: all units' settings as a text (sheet.py). It is changed here, and only here and by
    // answers that set everything at once; so nothing that is under way can undo what is done meanwhile.

    const box = (tab, name) => part(tab, name)?.querySelector("textarea, input");
    function write(tab, name, text) {
        const field = box(tab, name);
        field.value = text;
        updateInput(field);
    }
    const sheetOf = (tab) => JSON.parse(box(tab, "sheet").value);
    const unitOf = (sheet) => sheet.units[sheet.shown - 1];
    function edit(tab, change) {
        const sheet = sheetOf(tab);
        change(sheet);
        write(tab, "sheet", JSON.stringify(sheet));
    }
    const facts = (tab) => JSON.parse(part(tab, "units").querySelector(".ip-adapter-units").dataset.facts);
    const initial = {};  // elem_id -> the gradio component's value before anybody has touched it
    onUiLoaded(() => {
        for (const {props} of gradio_config.components) {
            if (props?.elem_id?.includes("_ip_adapter_")) initial[props.elem_id] = props.value;
        }
    });

    // Which unit is shown

    const range = (tab, unit) => {
        const [minimum, maximum] = facts(tab)[unit.wide ? "wide" : "narrow"];
        return {minimum, maximum, __type__: "update"};
    };
    const wanted = {};
    async function show(tab, number) {
        wanted[tab] = number;
        press(`${tab}_ip_adapter_show`);
        await pause(0); // gradio applies the answer before anything else happens, but not before this code goes on
        return until(() => sheetOf(tab).shown === number, 5000);
    }
    // Answers to gradio's events: given the values of sheet and components, they return what these are to be.
    function shown(tab, [text, ...values]) {
        const {fields} = facts(tab), sheet = JSON.parse(text);
        Object.assign(unitOf(sheet), Object.fromEntries(fields.map((field, i) => [field, values[i]])));
        if (wanted[tab] >= 1 && wanted[tab] <= sheet.units.length) sheet.shown = wanted[tab];
        const unit = unitOf(sheet);
        fields.forEach((field) => { unit[field] ??= initial[`${tab}_ip_adapter_${field}`]; });
        return [
            JSON.stringify(sheet),
            ...fields.map((field) => field === "weight" ? {...range(tab, unit), value: unit[field]} : unit[field]),
        ];
    }
    function widened(tab, [text, weight]) {
        const sheet = JSON.parse(text), unit = unitOf(sheet);
        unit.wide = !unit.wide;
        const limits = range(tab, unit);
        const value = Math.min(limits.maximum, Math.max(limits.minimum, weight));
        return [JSON.stringify(sheet), {...limits, value}];
    }

    const drawnOf = {};  // tab -> what its cards show, or are about to show
    function lookOf(sheet) {
        const {images, region, crop} = unitOf(sheet);
        const items = (images ?? []).map(({key, waiting, negative, mask}) => [key, waiting, negative, mask]);
        return JSON.stringify([sheet.shown, items, region, items.length ? crop : null]);
    }
    function changed(tab, [text, enabled]) {
        const sheet = JSON.parse(text), unit = unitOf(sheet), look = lookOf(sheet);
        drawUnits(tab, sheet, enabled);
        fillControls(tab, unit);
        drawSpread(tab, unit);
        part(tab, "slot").parentElement.classList.toggle("ip-adapter-filled", Boolean(unit.images?.length));
        if (look !== drawnOf[tab]) {
            drawnOf[tab] = look;
            part(tab, "references").classList.add("ip-adapter-stale");
            draw(tab);
        }
        setTimeout(() => {
            const [number, slider] = ["number", "range"].map((type) => part(tab, "weight").querySelector(`input[type=${type}]`));
            slider.value = number.value;
        });
        return [range(tab, unit)];
    }
    function drawUnits(tab, sheet, enabled) {
        const list = part(tab, "units").querySelector(".ip-adapter-units"), {units} = sheet;
        const focused = list.contains(document.activeElement);
        while (list.children.length > units.length) list.lastChild.remove();
        while (list.children.length < units.length) {
            const textContent = `Unit ${list.children.length + 1}`;
            list.append(Object.assign(document.createElement("button"), {type: "button", role: "tab", textContent}));
        }
        [...list.children].forEach((button, i) => {
            const unit = units[i], here = i + 1 === sheet.shown;
            const used = Boolean(unit.images?.some((item) => !item.negative)) && (here ? enabled : unit.enabled !== false);
            button.tabIndex = here ? 0 : -1;
            button.setAttribute("aria-selected", here);
            button.classList.toggle("ip-adapter-used", used);
            button.title = used ? "This unit takes part." : "This unit takes no part: it has no reference, or is not enabled.";
        });
        if (focused) list.children[sheet.shown - 1].focus();
    }
    function onUnitKey(event) {
        const list = event.target.closest?.(".ip-adapter-units");
        if (!list) return;
        const tab = tabOf(list), count = list.children.length, {shown} = sheetOf(tab);
        const number = {ArrowLeft: (shown + count - 2) % count + 1, ArrowRight: shown % count + 1, Home: 1, End: count}[event.key];
        if (!number) return;
        event.preventDefault();
        show(tab, number);
    }

    // The plain controls (plain.py). The sheet has their values.

    const defaultOf = (control) => JSON.parse(control.dataset.default);
    function fillControls(tab, unit) {
        for (const control of part(tab, "advanced").querySelectorAll(".ip-adapter-control")) {
            const value = unit[control.dataset.field] ?? defaultOf(control);
            for (const field of control.querySelectorAll("input, select")) {
                if (field.type === "checkbox") field.checked = value;
                else if (field !== document.activeElement) field.value = value;
            }
        }
    }
    function valueOf(field) {
        if (field.type === "checkbox") return field.checked;
        if (!["number", "range"].includes(field.type)) return field.value;
        return field.value === "" ? null : Math.min(field.max, Math.max(field.min, field.value));
    }
    function onControl(event) {
        const control = event.target.closest?.(".ip-adapter-control"), value = control ? valueOf(event.target) : null;
        if (value !== null) edit(tabOf(control), (sheet) => { unitOf(sheet)[control.dataset.field] = value; });
    }
    function onControlLeft(event) {  // it shows what counts: within its limits, or what has come from elsewhere
        const control = event.target.closest?.(".ip-adapter-control"), tab = control && tabOf(control);
        if (tab) setTimeout(() => fillControls(tab, unitOf(sheetOf(tab))));
    }
    function showVariantsControls(tab) {
        const variant = part(tab, "details").querySelector("[data-variant]")?.dataset.variant;
        for (const control of part(tab, "advanced").querySelectorAll("[data-variant]")) {
            control.hidden = control.dataset.variant !== variant;
        }
    }
    function translate(root) {  // the WebUI translates texts by itself
        const names = ["title", "placeholder", "aria-label"], controls = ".ip-adapter-control, .ip-adapter-control input";
        const presets = ".ip-adapter-tools button, .ip-adapter-question :is(input, button)";
        for (const element of root.querySelectorAll(`${controls}, ${presets}`)) {
            for (const name of names) {
                const translated = window.localization?.[element.getAttribute(name)];
                if (translated) element.setAttribute(name, translated);
            }
        }
    }

    // The bars of the blocks' strengths wait until a slider rests, and for the answer before.

    const spreads = {}, resting = {}, barsBusy = {}, barsAgain = {};
    const spreadOf = (tab, unit) => JSON.stringify(facts(tab).spread.map((field) => unit[field] ?? null));
    function drawSpread(tab, unit) {
        const spread = spreadOf(tab, unit);
        if (spread !== spreads[tab]) weighed(tab);
        spreads[tab] = spread;
    }
    function weighed(tab) {
        clearTimeout(resting[tab]);
        resting[tab] = setTimeout(() => askForBars(tab), 150);
        return [];
    }
    function askForBars(tab) {
        barsAgain[tab] = barsBusy[tab];
        barsBusy[tab] = true;
        if (!barsAgain[tab]) write(tab, "spread", newKey());
    }
    function barsDrawn(tab) {
        barsBusy[tab] = false;
        if (barsAgain[tab]) askForBars(tab);
        return [];
    }

    const tabOf = (element) => TABS.find((tab) => element.closest(`[id^=${tab}_ip_adapter]`));

    // Cards are drawn on the server. It is asked through a stamp, which comes back with them; if it was too busy to
    // hear, it is asked again.

    const stamps = {}, asked = {};
    function draw(tab, again = 0) {
        asked[tab] = Number(again) || 0;
        stamps[tab] = newKey();
        write(tab, "stamp", stamps[tab]);
        return [];
    }
    async function drawn(tab) {
        const cards = part(tab, "references"), list = () => cards.querySelector(".ip-adapter-cards");
        if (!await until(() => list()?.dataset.stamp === stamps[tab], 500)) {
            if (asked[tab] < 5) draw(tab, asked[tab] + 1);
        } else {
            cards.classList.remove("ip-adapter-stale");
            showVariantsControls(tab);
            const weights = Object.fromEntries((unitOf(sheetOf(tab)).images ?? []).map(({key, weight}) => [key, weight]));
            for (const card of cards.querySelectorAll(".ip-adapter-card")) {
                const field = card.querySelector("input");
                if (field !== document.activeElement) field.value = weights[card.dataset.key] ?? field.value;
            }
        }
        return [];
    }

    function onCardInput(event) {
        const card = event.target.matches?.(".ip-adapter-card input") && event.target.closest(".ip-adapter-card");
        if (!card) return;
        const text = event.target.value, weight = text === "" ? 1 : Math.min(3, Math.max(-1, Number(text)));
        change(tabOf(card), (items) => items.map((item) => item.key === card.dataset.key ? {...item, weight} : item));
    }
    function change(tab, changeItems) {
        edit(tab, (sheet) => sheet.units.forEach((unit) => { if (unit.images) unit.images = changeItems(unit.images); }));
    }
    const remove = (tab, key) => change(tab, (items) => items.filter((item) => item.key !== key));
    function onClick(event) {
        const button = event.target.closest?.("button"), card = button?.closest(".ip-adapter-card");
        if (card && button.matches(".ip-adapter-negate")) {
            const negate = (item) => ({...item, negative: item.negative ? undefined : true});
            change(tabOf(card), (items) => items.map((item) => item.key === card.dataset.key ? negate(item) : item));
        } else if (card && button.matches(".ip-adapter-mask")) {
            paintReference(tabOf(card), card);
        } else if (card && button.matches(".ip-adapter-remove")) {
            remove(tabOf(card), card.dataset.key);
        } else if (button?.matches(".ip-adapter-region-draw")) {
            paintRegion(tabOf(button), button);
        } else if (button?.matches(".ip-adapter-region-clear")) {
            edit(tabOf(button), (sheet) => { delete unitOf(sheet).region; });
        } else if (button?.matches(".ip-adapter-clear")) {
            edit(tabOf(button), (sheet) => { unitOf(sheet).images = []; });
        } else if (button?.matches(".ip-adapter-units > button")) {
            show(tabOf(button), [...button.parentElement.children].indexOf(button) + 1);
        } else if (event.target.closest?.(".ip-adapter-slot") && !event.target.matches("input")) {
            event.target.closest(".ip-adapter-slot").querySelector("input").click();
        }
    }

    // Pictures, on their way from here to the session: each has its place among its unit's references at once, and
    // goes through the inbox, one at a time.

    const isPicture = (file) => file.type.startsWith("image/");
    const arriving = {}, busy = {}, taking = {};
    function add(tab, files, number) {
        const items = files.map((file) => ({key: newKey(), file}));
        arriving[tab] = [...(arriving[tab] ?? []), ...items];
        edit(tab, (sheet) => {
            const unit = sheet.units[(number ?? sheet.shown) - 1];
            unit.images = [...(unit.images ?? []), ...items.map(({key}) => ({key, weight: 1, waiting: true}))];
        });
        return deliver(tab);
    }
    function dataOf(file) {
        return new Promise((resolve) => {
            const reader = new FileReader();
            reader.onload = () => resolve(reader.result);
            reader.onerror = () => resolve("");  // the server says that it is no picture
            reader.readAsDataURL(file);
        });
    }
    async function deliver(tab) {
        if (busy[tab]) return;
        busy[tab] = true;
        while (arriving[tab].length) {
            const {key, file} = arriving[tab].shift();
            write(tab, "inbox", JSON.stringify({key, data: await dataOf(file)}));
            await pause(0);
            const answer = new Promise((resolve) => { taking[tab] = resolve; });
            press(`${tab}_ip_adapter_take`);
            const isMask = !sheetOf(tab).units.some((unit) => unit.images?.some((item) => item.key === key));
            if (await answer !== key) {
                remove(tab, key);
                forgetMask(tab, key);
            } else if (isMask) {
                draw(tab);
            } else {
                change(tab, (items) => items.map((item) => item.key === key ? {...item, waiting: undefined} : item));
            }
        }
        busy[tab] = false;
    }
    function forgetMask(tab, key) {
        edit(tab, (sheet) => sheet.units.forEach((unit) => {
            if (unit.region === key) delete unit.region;
            unit.images?.forEach((item) => { if (item.mask === key) delete item.mask; });
        }));
    }
    function useControlNet(tab, [name]) {
        const number = Number(/\d+/.exec(name ?? "")?.[0]);
        if (Number.isNaN(number)) return [];
        edit(tab, (sheet) => {
            const unit = unitOf(sheet), item = {key: newKey(), weight: 1, controlnet: number + 1};
            unit.images = [...(unit.images ?? []), item];
        });
        return [];
    }
    function taken(tab, [receipt]) {
        taking[tab]?.(JSON.parse(receipt || "{}").taken);
        return [];
    }

    async function fetched(address) {
        const answer = await fetch(address);
        const blob = await answer.blob();
        if (!answer.ok || !blob.type.startsWith("image/")) throw new Error(`${address} is no picture`);
        return new File([blob], "picture", {type: blob.type});
    }

    // Masks

    function addMask(tab, file, place) {
        const key = newKey();
        edit(tab, (sheet) => place(sheet, key));
        arriving[tab] = [...(arriving[tab] ?? []), {key, file}];
        return deliver(tab);
    }
    async function paintReference(tab, card) {
        const {key} = card.dataset, start = card.querySelector(".ip-adapter-mask").dataset.mask ?? null;
        const file = await ipAdapterPaint({title: "Mask of the reference", background: card.querySelector("img").src, start});
        const items = (sheet) => sheet.units.flatMap((unit) => unit.images ?? []);
        if (file) addMask(tab, file, (sheet, mask) => items(sheet).forEach((item) => { if (item.key === key) item.mask = mask; }));
    }
    async function paintRegion(tab, button) {
        const number = sheetOf(tab).shown, start = button.dataset.mask ?? null;
        const size = ["width", "height"].map((side) => Number(byId(`${tab}_${side}`)?.querySelector("input")?.value) || 512);
        const file = await ipAdapterPaint({title: "Where the unit acts", background: pictureIn(tab) ?? null, size, start});
        if (file) addMask(tab, file, (sheet, mask) => { sheet.units[number - 1].region = mask; });
    }

    const slotAt = (target) => target instanceof Element && target.closest(".ip-adapter-slot");

    function onDragOver(event) {
        if (slotAt(event.target)) event.preventDefault();
    }
    async function onDrop(event) {
        const slot = slotAt(event.target);
        if (!slot) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        const files = [...event.dataTransfer.files];
        const address = event.dataTransfer.getData("text/uri-list").split("\n")[0];
        if (files.length) return add(tabOf(slot), files);
        if (!address) return;
        try {
            add(tabOf(slot), [await fetched(address)]);
        } catch (error) {
            console.warn("IP-Adapter:", error);
        }
    }
    function onChosen(event) {
        const slot = event.target.matches?.("input[type=file]") && slotAt(event.target);
        if (!slot) return;
        const files = [...event.target.files];
        event.target.value = "";
        if (files.length) add(tabOf(slot), files);
    }

    // The slot that is focused or pointed at.
    let pointed = null;
    function onPaste(event) {
        const slot = slotAt(document.activeElement) || (pointed?.isConnected && pointed.matches(":hover") && pointed);
        const files = [...(event.clipboardData?.files ?? [])].filter(isPicture);
        if (!slot || !files.length) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        add(tabOf(slot), files);
    }
    function onSlotKey(event) {
        if (!event.target.matches?.(".ip-adapter-slot") || !["Enter", " "].includes(event.key)) return;
        event.preventDefault();
        event.target.querySelector("input").click();
    }

    // Send to IP-Adapter

    function pictureIn(source) {
        if (source === "pnginfo") return byId("pnginfo_image")?.querySelector("img")?.src;
        const gallery = byId(`${source}_gallery`);
        const selected = gallery?.querySelector("[data-testid=detailed-image], .preview > img, .preview button > img");
        const thumbnail = gallery?.querySelector(".thumbnail-item.selected img") ?? gallery?.querySelector(".thumbnail-item img");
        return (selected ?? thumbnail)?.src;
    }

    let lastTab = "txt2img";
    function noteTab() {
        for (const tab of TABS) {
            if (get_uiCurrentTabContent()?.id === `tab_${tab}`) lastTab = tab;
        }
    }
    function openTab(tab) {
        const items = [...gradioApp().querySelectorAll("#tabs > .tabitem")];
        const buttons = gradioApp().querySelectorAll("#tabs > .tab-nav > button");
        buttons[items.findIndex((item) => item.id === `tab_${tab}`)]?.click();
    }

    async function send(source) {
        noteTab();
        const address = pictureIn(source);
        if (!address) return press("txt2img_ip_adapter_nothing");
        const file = await fetched(address);
        openTab(lastTab);
        const panel = byId(`${lastTab}_ip_adapter`);
        panel.querySelector(":scope > .label-wrap:not(.open)")?.click();
        const sheet = sheetOf(lastTab);
        const isFree = (number) => !sheet.units[number - 1].images?.length;
        const numbers = sheet.units.map((_, i) => i + 1);
        const place = [sheet.shown, ...numbers].find(isFree) ?? sheet.shown;
        await show(lastTab, place);
        add(lastTab, [file], place);
        panel.scrollIntoView({block: "nearest", behavior: "smooth"});
    }

    // Presets: what is wanted goes into a box (preset_bar.py); the answer, maybe a question, stands in the line of notes.

    const following = {}, tools = {};
    const isBusy = (tab) => Boolean(following[tab]);
    async function order(tab, wanted) {
        if (!await until(() => !isBusy(tab), 60_000)) return;
        following[tab] = wanted;
        write(tab, "preset_order", JSON.stringify({...wanted, stamp: newKey()}));
    }
    async function followed(tab) {  // also after an error
        await pause(0);  // the answer is on view
        const isExport = following[tab]?.do === "export";
        if (isExport) await download(tab);
        following[tab] = null;
        noted(tab);
        return [isExport ? null : {__type__: "update"}];
    }
    function noted(tab) {
        const question = part(tab, "note").querySelector(".ip-adapter-question");
        if (question) {
            translate(question);
            const field = question.querySelector("input, [type=button]");  // Enter, pressed twice, does not overwrite
            field.focus();
            field.select?.();
        } else if (document.activeElement === document.body) {
            tools[tab]?.focus({preventScroll: true});
        }
        return [];
    }
    function onTool(event) {
        const button = event.target.closest?.(".ip-adapter-tools button");
        if (!button) return;
        const tab = tabOf(button), wanted = JSON.parse(button.dataset.order);
        tools[tab] = button;
        if (wanted) order(tab, wanted);
        else upload(tab);
    }
    function onCancel(event) {
        const button = event.target.closest?.(".ip-adapter-question [type=button]"), tab = button && tabOf(button);
        if (button && !isBusy(tab)) order(tab, {do: "cancel"});  // what is being done cannot be called off
    }
    function onAnswer(event) {
        const question = event.target.closest(".ip-adapter-question");
        if (!question) return;
        event.preventDefault();
        const tab = tabOf(question), wanted = JSON.parse(question.dataset.order);
        if (!isBusy(tab)) order(tab, {...wanted, name: question.querySelector("input")?.value ?? wanted.name});
    }
    async function upload(tab) {
        const field = () => part(tab, "preset_file").querySelector("input[type=file]");
        if (!field()) {  // a file is there already, maybe with a question that has not been answered
            await order(tab, {do: "cancel"});
            await until(field, 5000);
        }
        field()?.click();
    }
    async function download(tab) {
        const link = () => part(tab, "preset_file").querySelector("a[href]");
        if (await until(link, 500)) {
            const copy = Object.assign(document.createElement("a"), {href: link().href, download: "ip-adapter-presets.zip"});
            document.body.append(copy);
            copy.click();
            copy.remove();
        }
    }

    // A list that was opened with what it had before: open it again, unless somebody is searching in it.
    function reopen(tab, [names]) {
        const list = part(tab, "preset_chosen"), input = list.querySelector("input");
        const items = [...list.querySelectorAll("ul.options li")];
        const shown = items.map((item) => item.dataset.value ?? item.textContent.replace("✓", "").trim());
        if (input !== document.activeElement || JSON.stringify(shown) === JSON.stringify(JSON.parse(names || "[]"))) return [];
        if (items.length && input.value && !shown.includes(input.value)) return [];
        input.blur();
        setTimeout(() => input.focus(), 50);
        return [];
    }

    // The line below a model says whether it fits the checkpoint.
    let checkpoint;
    function noteCheckpoint() {
        if (opts.sd_model_checkpoint === undefined) return;
        const now = `${opts.sd_model_checkpoint} ${opts.sd_checkpoint_hash}`;
        if (checkpoint !== undefined && checkpoint !== now) TABS.forEach((tab) => draw(tab));
        checkpoint = now;
    }
    onUiLoaded(noteCheckpoint);
    onOptionsChanged(noteCheckpoint);

    onUiLoaded(() => TABS.forEach((tab) => {
        const sheet = sheetOf(tab), unit = unitOf(sheet);
        drawUnits(tab, sheet, true);
        fillControls(tab, unit);
        drawnOf[tab] = lookOf(sheet);
        showVariantsControls(tab);
        translate(byId(`${tab}_ip_adapter`));
        spreads[tab] = spreadOf(tab, unit);
    }));
    document.addEventListener("dragover", onDragOver);
    document.addEventListener("drop", onDrop, true);
    window.addEventListener("paste", onPaste, true);
    document.addEventListener("pointerover", (event) => { pointed = slotAt(event.target) || pointed; });
    document.addEventListener("input", onCardInput);
    document.addEventListener("input", onControl);
    document.addEventListener("focusout", onControlLeft);
    document.addEventListener("change", onChosen);
    document.addEventListener("click", onClick);
    document.addEventListener("click", onTool);
    document.addEventListener("click", onCancel);
    document.addEventListener("submit", onAnswer);
    document.addEventListener("keydown", onUnitKey);
    document.addEventListener("keydown", onSlotKey);
    onUiTabChange(noteTab);
    return {shown, widened, changed, weighed, barsDrawn, draw, drawn, taken, useControlNet, followed, noted, reopen, send, unload: () => press("txt2img_ip_adapter_unload")};
})();

// Python and the settings page call these by name.
const ipAdapterSend = ipAdapter.send;
const ipAdapterUnload = ipAdapter.unload;
