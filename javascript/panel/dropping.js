// What is dropped on a panel, pasted over it, or chosen. The whole panel takes pictures; each of its units' tabs takes
// them for its unit.
(window.ipAdapter ??= {}).dropping = (() => {
    const TAB = ".ip-adapter-units > button";
    const OPENS_AFTER = 500;  // milliseconds over a folded panel
    const over = {tab: null, button: null, since: 0};  // where something is being dragged

    const panelAt = (target) => Object.values(ipAdapter.page.tabs).find(({panel}) => panel?.contains(target));
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
        const {dataTransfer: data, target} = event;
        const tab = data && ipAdapter.early.isPictures(data) && panelAt(target) || null;
        highlight(tab, tab && target.closest?.(TAB));
        if (!tab) return;
        event.preventDefault();
        event.stopPropagation();
        data.dropEffect = "copy";
        if (performance.now() - over.since > OPENS_AFTER) unfold(tab);
    }
    function onDragLeave(event) {
        if (!event.relatedTarget) highlight(null, null);  // out of the window
    }
    // What is dropped, pasted or chosen (ip_adapter_early.js). `number`: of a unit, without it the one that is shown.
    async function take(tab, {files, html = "", list = "", entries = []}, number = tab.state.shown) {
        highlight(null, null);
        unfold(tab);
        if (entries.some(({isDirectory}) => isDirectory)) await addFolders(tab, entries, number);
        else if (files.length) ipAdapter.pictures.add(tab, files, number);
        else await addFromPages(tab, addressesIn(html, list), number);
    }
    function takeEvent(event, found) {
        if (!found) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        take(found.tab, found.content, unitAt(event.target));
    }
    function onDrop(event) {
        highlight(null, null);
        takeEvent(event, ipAdapter.early.dropped(event));
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
    function addressesIn(html, list) {
        const page = new DOMParser().parseFromString(html, "text/html");
        const shown = [...page.images].map((image) => image.getAttribute("src")).filter(Boolean);
        const listed = list.split(/\r?\n/).filter((line) => line && !line.startsWith("#"));
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

    document.addEventListener("dragover", onDragOver, true);
    document.addEventListener("dragleave", onDragLeave);
    document.addEventListener("dragend", () => highlight(null, null));
    document.addEventListener("drop", onDrop, true);
    window.addEventListener("paste", (event) => takeEvent(event, ipAdapter.early.pasted(event)), true);
    document.addEventListener("change", (event) => takeEvent(event, ipAdapter.early.chosen(event)));
    return {unfold, unitAt, take};
})();
