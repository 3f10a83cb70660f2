// What is dropped on a panel, pasted over it, or chosen. The whole panel takes pictures; each of its units' tabs takes
// them for its unit.
(window.ipAdapter ??= {}).dropping = (() => {
    const DROP_AREA = ".ip-adapter-drop-area", TAB = ".ip-adapter-units > button";
    const OPENS_AFTER = 500;  // milliseconds over a folded panel
    const over = {tab: null, button: null, since: 0};  // where something is being dragged

    const panelAt = (target) => Object.values(ipAdapter.page.tabs).find(({panel}) => panel?.contains(target));
    const dropAreaAt = (target) => target instanceof Element && target.closest(DROP_AREA);
    function mayBePictures({types}) {
        const isOfCards = types.includes(ipAdapter.moves?.TYPE);
        return !isOfCards && ["Files", "text/uri-list"].some((type) => types.includes(type));
    }
    function unitAt(target) {
        const button = target.closest?.(TAB);
        return button ? [...button.parentElement.children].indexOf(button) + 1 : undefined;
    }
    function unfold(tab) {
        tab.panel.querySelector(":scope > .label-wrap:not(.open)")?.click();
    }

    function highlight(tab, button) {
        if (tab !== over.tab) over.since = performance.now();
        over.tab?.panel.classList.toggle("ip-adapter-dropping", over.tab === tab);
        tab?.panel.classList.add("ip-adapter-dropping");
        if (over.button !== button) over.button?.classList.remove("ip-adapter-drop-target");
        button?.classList.add("ip-adapter-drop-target");
        Object.assign(over, {tab, button});
    }
    function onDragOver(event) {
        const tab = event.dataTransfer && mayBePictures(event.dataTransfer) ? panelAt(event.target) ?? null : null;
        highlight(tab, tab && event.target.closest?.(TAB));
        if (!tab) return;
        event.preventDefault();
        event.stopPropagation();
        event.dataTransfer.dropEffect = "copy";
        if (performance.now() - over.since > OPENS_AFTER) unfold(tab);
    }
    function onDragLeave(event) {
        if (!event.relatedTarget) highlight(null, null);  // out of the window
    }
    async function onDrop(event) {
        highlight(null, null);
        const {dataTransfer: data, target} = event, tab = data && mayBePictures(data) && panelAt(target);
        if (!tab) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        unfold(tab);
        const number = unitAt(target) ?? tab.state.shown;
        const files = [...data.files], addresses = addressesIn(data);
        const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
        if (entries.some(({isDirectory}) => isDirectory)) await addFolders(tab, entries, number);
        else if (files.length) ipAdapter.pictures.add(tab, files, number);
        else await addFromPages(tab, addresses, number);
    }
    async function addFolders(tab, entries, number) {
        const {references: most} = tab.facts;
        const {files} = await ipAdapter.loadSubject("folders");
        const {found, others, isCut} = await files(entries, most);
        ipAdapter.pictures.add(tab, found, number);
        ipAdapter.notes.tellOfMany(tab, others, `Left out, as no pictures or more than the ${most} that a unit can have:`);
        if (isCut) ipAdapter.notes.tell(tab, "", "The folder has more files than are looked at: drop a smaller one.");
        if (!found.length && !others.length) ipAdapter.notes.tell(tab, "", "There is no picture in the folder.");
    }

    // A picture of another page is read by this browser, as that page lets it.
    function addressesIn(data) {
        const page = new DOMParser().parseFromString(data.getData("text/html"), "text/html");
        const shown = [...page.images].map((image) => image.getAttribute("src")).filter(Boolean);
        const listed = data.getData("text/uri-list").split(/\r?\n/).filter((line) => line && !line.startsWith("#"));
        return [...new Set(shown.length ? shown : listed)];  // of a picture in a link, the link is listed
    }
    async function addFromPages(tab, addresses, number) {
        const {references: most} = tab.facts, files = [], refused = [];
        for (const address of addresses.slice(0, most)) {
            try {
                files.push(await ipAdapter.pictures.download(address));
            } catch (error) {
                console.warn("IP-Adapter:", error);
                refused.push(address);
            }
        }
        ipAdapter.pictures.add(tab, files, number);
        refused.forEach((address) => ipAdapter.notes.tell(
            tab, ipAdapter.pictures.nameIn(address),
            "The page that it is on does not let it be read from here: save the picture and drop the file.",
        ));
    }

    function onPointer(event) {
        ipAdapter.page.pointedDropArea = panelAt(event.target)?.panel ?? ipAdapter.page.pointedDropArea;
    }
    function onPaste(event) {  // for the panel that has the focus or is pointed at
        const pointed = ipAdapter.page.pointedDropArea, isPointedAt = pointed?.isConnected && pointed.matches(":hover");
        const tab = panelAt(document.activeElement) ?? (isPointedAt ? ipAdapter.tabOf(pointed) : null);
        const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
        const isField = event.target.matches?.("textarea, input:not([type=checkbox], [type=range], [type=file])");
        if (!tab || !files.length || isField && event.clipboardData.getData("text/plain")) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        unfold(tab);
        ipAdapter.pictures.add(tab, files);
    }
    function onClick(event) {
        const area = event.target.closest?.(DROP_AREA);
        if (area && !event.target.matches("input")) area.querySelector("input").click();
    }
    function onKey(event) {
        if (!event.target.matches?.(DROP_AREA) || !["Enter", " "].includes(event.key)) return;
        event.preventDefault();
        event.target.querySelector("input").click();
    }
    function onChosen(event) {
        const area = event.target.matches?.("input[type=file]") && dropAreaAt(event.target);
        if (!area) return;
        const files = [...event.target.files];
        event.target.value = "";
        if (files.length) ipAdapter.pictures.add(ipAdapter.tabOf(area), files);
    }

    document.addEventListener("dragover", onDragOver, true);
    document.addEventListener("dragleave", onDragLeave);
    document.addEventListener("dragend", () => highlight(null, null));
    document.addEventListener("drop", onDrop, true);
    window.addEventListener("paste", onPaste, true);
    document.addEventListener("pointerover", onPointer);
    document.addEventListener("click", onClick);
    document.addEventListener("keydown", onKey);
    document.addEventListener("change", onChosen);
    return {unfold, unitAt};
})();
