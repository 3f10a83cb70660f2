// The panel's part in the browser: cards of references, pictures that are dropped, pasted or sent, downloads, and the
// warning that follows the checkpoint.
const ipAdapter = (() => {
    const byId = (id) => gradioApp().getElementById(id);
    const press = (id) => byId(id)?.click();

    // Pictures into gradio's picture fields

    const isPicture = (file) => file.type.startsWith("image/");

    function put(field, file) {
        const input = field?.querySelector("input[type=file]");
        if (!input) return false;
        const list = new DataTransfer();
        list.items.add(file);
        input.files = list.files;
        input.dispatchEvent(new Event("change"));
        return true;
    }

    // A field takes one picture at a time: it shows the picture, and is empty again when the panel has taken it over.
    const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
    async function until(condition, milliseconds) {
        for (const end = Date.now() + milliseconds; Date.now() < end; await pause(10)) {
            if (condition()) return true;
        }
        return false;
    }
    async function putAndWait(field, file) {
        let shown = false;
        const watch = new MutationObserver(() => { shown ||= field.querySelector("img") !== null; });
        watch.observe(field, {childList: true, subtree: true});
        // While gradio is about to draw the empty field, what is put there gets lost.
        for (let tries = 0; tries < 3 && !shown; tries += 1) {
            await until(() => put(field, file), 5000);
            await until(() => shown, 3000);
        }
        await until(() => field.querySelector("img") === null, 30000);
        watch.disconnect();
        await pause(50);
    }
    const waiting = new Map();
    async function putAll(field, files) {
        const busy = waiting.has(field);
        waiting.set(field, [...(waiting.get(field) ?? []), ...files]);
        if (busy) return;
        while (waiting.get(field).length) await putAndWait(field, waiting.get(field).shift());
        waiting.delete(field);
    }

    async function fetched(address) {
        const answer = await fetch(address);
        const blob = await answer.blob();
        if (!answer.ok || !blob.type.startsWith("image/")) throw new Error(`${address} is no picture`);
        return new File([blob], "picture", {type: blob.type});
    }

    const slotAt = (target) => target instanceof Element && target.closest(".ip-adapter-slot");

    async function onDrop(event) {
        const slot = slotAt(event.target);
        if (!slot) return;
        const files = [...event.dataTransfer.files];
        const address = event.dataTransfer.getData("text/uri-list").split("\n")[0];
        if (files.length < 2 && !(files.length === 0 && address)) return; // gradio takes a single file
        event.preventDefault();
        event.stopImmediatePropagation();
        if (files.length) return putAll(slot, files.filter(isPicture));
        try {
            putAll(slot, [await fetched(address)]);
        } catch (error) {
            console.warn("IP-Adapter:", error);
        }
    }

    // The slot that is focused or pointed at, and else the one unit on view whose panel was used last.
    let pointed = null;
    function onPaste(event) {
        const slot = slotAt(document.activeElement) || (pointed?.isConnected && pointed.matches(":hover") && pointed);
        const files = [...(event.clipboardData?.files ?? [])].filter(isPicture);
        if (!slot || !files.length) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        putAll(slot, files);
    }

    // Cards: weights and removals are told through a hidden text box, which is also an argument of the generation.

    function tell(panel, what) {
        const box = byId(panel.id.replace(/_references$/, "_act"))?.querySelector("textarea, input");
        if (!box) return;
        box.value = JSON.stringify({...what, at: Date.now()});
        updateInput(box);
    }
    const panelOf = (element) => element.closest("[id*=_ip_adapter_][id$=_references]");

    function onCardInput(event) {
        if (!event.target.matches?.(".ip-adapter-card input")) return;
        const panel = panelOf(event.target), weights = {};
        for (const card of panel.querySelectorAll(".ip-adapter-card")) {
            const text = card.querySelector("input").value;
            weights[card.dataset.key] = text === "" ? 1 : Math.min(3, Math.max(-1, Number(text)));
        }
        tell(panel, {weights});
    }
    function onCardClick(event) {
        const card = event.target.closest?.(".ip-adapter-card button")?.closest(".ip-adapter-card");
        if (card) tell(panelOf(card), {remove: card.dataset.key});
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
        for (const tab of ["txt2img", "img2img"]) {
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
        if (!address) return press(`${lastTab}_ip_adapter_nothing`);
        const file = await fetched(address);
        openTab(lastTab);
        const panel = byId(`${lastTab}_ip_adapter`);
        panel.querySelector(":scope > .label-wrap:not(.open)")?.click();
        const slots = [...panel.querySelectorAll(".ip-adapter-slot")];
        const hasNone = (slot) => !byId(slot.id.replace(/_slot$/, "_references"))?.querySelector(".ip-adapter-card");
        const place = Math.max(0, slots.findIndex(hasNone));
        byId(`${lastTab}_ip_adapter_units`).querySelectorAll(":scope > .tab-nav > button")[place]?.click();
        putAll(slots[place], [file]);
        panel.scrollIntoView({block: "nearest", behavior: "smooth"});
    }

    // Files to and from a hidden file field

    const upload = (id) => byId(id)?.querySelector("input[type=file]")?.click();

    function download(id) {
        const link = byId(id)?.querySelector("a[href]");
        if (!link) return;
        const copy = Object.assign(document.createElement("a"), {href: link.href, download: "ip-adapter-presets.zip"});
        document.body.append(copy);
        copy.click();
        copy.remove();
        return [];
    }

    // A list that was opened with what it had before: open it again, unless somebody is searching in it.
    function reopen(id, names) {
        const input = byId(id)?.querySelector("input");
        const items = [...(byId(id)?.querySelectorAll("ul.options li") ?? [])];
        const shown = items.map((item) => item.dataset.value ?? item.textContent.replace("✓", "").trim());
        if (input !== document.activeElement || JSON.stringify(shown) === names) return;
        if (items.length && input.value && !shown.includes(input.value)) return;
        input.blur();
        setTimeout(() => input.focus(), 50);
    }

    // The line below a model says whether it fits the checkpoint.
    let checkpoint;
    function noteCheckpoint() {
        if (opts.sd_model_checkpoint === undefined) return;
        const now = `${opts.sd_model_checkpoint} ${opts.sd_checkpoint_hash}`;
        if (checkpoint !== undefined && checkpoint !== now) {
            for (const tab of ["txt2img", "img2img"]) press(`${tab}_ip_adapter_recheck`);
        }
        checkpoint = now;
    }
    onUiLoaded(noteCheckpoint);
    onOptionsChanged(noteCheckpoint);

    // gradio's picture fields listen to the pointer alone.
    function openToKeyboard(slot) {
        slot.tabIndex = 0;
        slot.setAttribute("role", "button");
        slot.setAttribute("aria-label", slot.querySelector("[data-testid=block-label]")?.textContent.trim() ?? "");
        slot.addEventListener("keydown", (event) => {
            if (event.target === slot && ["Enter", " "].includes(event.key)) {
                event.preventDefault();
                slot.querySelector("input[type=file]")?.click();
            }
        });
    }
    onAfterUiUpdate(() => gradioApp().querySelectorAll(".ip-adapter-slot:not([tabindex])").forEach(openToKeyboard));

    document.addEventListener("drop", onDrop, true);
    window.addEventListener("paste", onPaste, true);
    document.addEventListener("pointerover", (event) => { pointed = slotAt(event.target) || pointed; });
    document.addEventListener("input", onCardInput);
    document.addEventListener("click", onCardClick);
    onUiTabChange(noteTab);
    return {send, upload, download, reopen, unload: () => press("txt2img_ip_adapter_unload")};
})();

// Python and the settings page call these by name.
const ipAdapterSend = ipAdapter.send;
const ipAdapterDownload = ipAdapter.download;
const ipAdapterUpload = ipAdapter.upload;
const ipAdapterReopen = ipAdapter.reopen;
const ipAdapterUnload = ipAdapter.unload;
