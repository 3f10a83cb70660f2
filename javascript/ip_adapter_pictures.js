// Pictures: how they come into the panel, dropped, pasted, chosen or sent from a gallery, and how they go from here to
// the session.
(window.ipAdapter ??= {}).pictures = (() => {
    // To the session: each has its place among its unit's references at once, and goes to the server through the inbox,
    // one at a time.

    function add(tab, files, number) {
        const arriving = files.map((file) => ({key: ipAdapter.newKey(), file}));
        ipAdapter.units.tick(tab);
        tab.delivery.queue.push(...arriving);
        tab.changeState((state) => {
            const unit = state.units[(number ?? state.shown) - 1];
            unit.images = [...(unit.images ?? []), ...arriving.map(({key}) => ({key, weight: 1, waiting: true}))];
        });
        deliver(tab);
    }
    function addMask(tab, file, key) {
        tab.delivery.queue.push({key, file});
        deliver(tab);
    }
    async function deliver(tab) {
        const {delivery} = tab;
        if (delivery.isRunning) return;
        delivery.isRunning = true;
        while (delivery.queue.length) {
            const {key, file} = delivery.queue.shift();
            tab.writeBox("inbox", JSON.stringify({key, data: await dataOf(file)}));
            await ipAdapter.pause(0);
            const receipt = new Promise((resolve) => { delivery.onReceipt = resolve; });
            tab.press("take");
            const isReference = tab.state.units.some((unit) => unit.images?.some((reference) => reference.key === key));
            if (await receipt !== key) {
                ipAdapter.references.remove(tab, key);
                ipAdapter.references.forgetMask(tab, key);
            } else if (isReference) {
                ipAdapter.references.change(tab, key, (reference) => ({...reference, waiting: undefined}));
            } else {
                ipAdapter.drawings.drawCards(tab);
            }
        }
        delivery.isRunning = false;
    }
    function answerTaken(tab, [receipt]) {
        tab.delivery.onReceipt?.(JSON.parse(receipt || "{}").taken);
        return [];
    }
    function dataOf(file) {
        if (file.stored) return Promise.resolve(file.stored);  // named, not sent (ip_adapter_shelf.js)
        return new Promise((resolve) => {
            const reader = new FileReader();
            reader.onload = () => resolve(reader.result);
            reader.onerror = () => resolve("");  // the server says that it is no picture
            reader.readAsDataURL(file);
        });
    }
    async function download(address) {
        const answer = await fetch(address);
        const blob = await answer.blob();
        if (!answer.ok || !blob.type.startsWith("image/")) throw new Error(`${address} is no picture`);
        return new File([blob], "picture", {type: blob.type});
    }

    // Dropped, pasted, chosen

    const DROP_AREA = ".ip-adapter-drop-area";
    const dropAreaAt = (target) => target instanceof Element && target.closest(DROP_AREA);

    function onDragOver(event) {
        if (dropAreaAt(event.target)) event.preventDefault();
    }
    async function onDrop(event) {
        const area = dropAreaAt(event.target);
        if (!area) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        const files = [...event.dataTransfer.files];
        const address = event.dataTransfer.getData("text/uri-list").split("\n")[0];
        if (files.length) return add(ipAdapter.tabOf(area), files);
        if (!address) return;
        try {
            add(ipAdapter.tabOf(area), [await download(address)]);
        } catch (error) {
            console.warn("IP-Adapter:", error);
        }
    }
    function onPointer(event) {
        ipAdapter.page.pointedDropArea = dropAreaAt(event.target) || ipAdapter.page.pointedDropArea;
    }
    function onPaste(event) {  // for the area that has the focus or is pointed at
        const pointed = ipAdapter.page.pointedDropArea, isPointedAt = pointed?.isConnected && pointed.matches(":hover");
        const area = dropAreaAt(document.activeElement) || (isPointedAt && pointed);
        const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
        if (!area || !files.length) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        add(ipAdapter.tabOf(area), files);
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
        if (files.length) add(ipAdapter.tabOf(area), files);
    }

    // "Send to IP-Adapter": into the panel of the tab that was open last.

    // The address of the picture that is on view, selected, or the first one there.
    function pictureIn(source) {
        if (source === "pnginfo") return ipAdapter.byId("pnginfo_image")?.querySelector("img")?.src;
        const gallery = ipAdapter.byId(`${source}_gallery`);
        const preview = gallery?.querySelector("[data-testid=detailed-image], .preview > img, .preview button > img");
        const selected = gallery?.querySelector(".thumbnail-item.selected img");
        return (preview ?? selected ?? gallery?.querySelector(".thumbnail-item img"))?.src;
    }
    function openTab(tab) {
        const contents = [...gradioApp().querySelectorAll("#tabs > .tabitem")];
        const buttons = gradioApp().querySelectorAll("#tabs > .tab-nav > button");
        buttons[contents.findIndex((content) => content.id === `tab_${tab.name}`)]?.click();
    }

    // The buttons call this (send_to.py).
    async function send(source) {
        ipAdapter.noteLastTab();
        const address = pictureIn(source);
        if (!address) return ipAdapter.page.tabs.txt2img.press("nothing");
        const file = await download(address);
        const tab = ipAdapter.page.lastTab;
        openTab(tab);
        tab.panel.querySelector(":scope > .label-wrap:not(.open)")?.click();
        const {units, shown} = tab.state;
        const isFree = (number) => !units[number - 1].images?.length;
        const number = [shown, ...units.map((_, i) => i + 1)].find(isFree) ?? shown;
        await ipAdapter.units.show(tab, number);
        add(tab, [file], number);
        tab.panel.scrollIntoView({block: "nearest", behavior: "smooth"});
    }

    document.addEventListener("dragover", onDragOver);
    document.addEventListener("drop", onDrop, true);
    window.addEventListener("paste", onPaste, true);
    document.addEventListener("pointerover", onPointer);
    document.addEventListener("click", onClick);
    document.addEventListener("keydown", onKey);
    document.addEventListener("change", onChosen);
    return {add, addMask, pictureIn, send, answerTaken};
})();
