// Pictures: how they go to the session and come back from it, and those that are sent from a gallery.
(window.ipAdapter ??= {}).pictures = (() => {
    // To the session: each has its place among its unit's references at once, and goes to the server through the inbox,
    // one at a time.

    function add(tab, files, number) {
        const {state} = tab, {references: most} = tab.facts;
        const room = Math.max(0, most - (state.units[(number ?? state.shown) - 1].images?.length ?? 0));
        const arriving = files.slice(0, room).map((file) => ({key: ipAdapter.newKey(), file}));
        ipAdapter.notes.clear(tab);
        ipAdapter.notes.tellOfMany(
            tab, files.slice(room).map(({name}) => name), `A unit has at most ${most} references. Left out:`,
        );
        if (!arriving.length) return;
        arriving.forEach(({key, file}) => ipAdapter.cards.noteThumbnail(key, file));
        ipAdapter.units.tick(tab);
        tab.delivery.queue.push(...arriving);
        tab.changeState((changed) => {
            const unit = changed.units[(number ?? changed.shown) - 1];
            unit.images = [...(unit.images ?? []), ...arriving.map(({key}) => ({key, weight: 1, waiting: true}))];
        });
        deliver(tab);
    }
    function addMask(tab, file, key) {
        tab.delivery.queue.push({key, file, isMask: true});
        deliver(tab);
    }
    // The picture that the page has under a key, or the mask, as an address; at most 2048 pixels on its longer side.
    // null where there is none.
    function whole(tab, key) {
        return new Promise((resolve) => {
            tab.delivery.queue.unshift({key, resolve});
            deliver(tab);
        });
    }
    async function deliver(tab) {
        const {delivery} = tab;
        if (delivery.isRunning) return;
        delivery.isRunning = true;
        while (delivery.queue.length) {
            const next = delivery.queue.shift();
            delivery.key = next.key;
            if (next.resolve) next.resolve((await answerTo(tab, {wanted: next.key})).whole ?? null);
            else await deliverPicture(tab, next);
        }
        delivery.isRunning = false;
        delivery.key = null;
    }
    const isUnderWay = ({delivery}, key) => delivery.key === key || delivery.queue.some((one) => one.key === key);
    async function deliverPicture(tab, {key, file, isMask, isAgain}) {
        const {sent, word} = isMask ? {sent: file} : await readable(file);
        const {taken, problem} = await answerTo(tab, {key, data: await dataOf(sent)});
        ipAdapter.cards.forgetThumbnail(key);  // it stays on view until the server's is there
        if (!taken && !problem && !isAgain) return void tab.delivery.queue.unshift({key, file, isMask, isAgain: true});
        const isReference = tab.state.units.some((unit) => unit.images?.some((reference) => reference.key === key));
        if (taken !== key) {
            ipAdapter.references.remove(tab, key);
            ipAdapter.references.forgetMask(tab, key);
            ipAdapter.notes.tell(tab, isMask ? "" : file.name, problem ?? "The WebUI has not answered: add it again.");
        } else if (isReference) {
            ipAdapter.references.change(tab, key, (reference) => ({...reference, waiting: undefined}));
            if (word) ipAdapter.notes.tell(tab, file.name, word, true);
        } else {
            ipAdapter.drawings.drawCards(tab);
        }
    }
    // What the server has to say about what is put into the inbox.
    async function answerTo(tab, order) {
        tab.writeBox("inbox", JSON.stringify(order));
        await ipAdapter.pause(0);
        const receipt = new Promise((resolve) => { tab.delivery.onReceipt = resolve; });
        tab.press("take");
        const answer = await receipt;
        if (answer.whole) tab.writeBox("inbox", "{}");  // it is long
        return answer;
    }
    function answerTaken(tab, [receipt]) {
        tab.delivery.onReceipt?.(JSON.parse(receipt || "{}"));
        return [];
    }
    // The server gets files as they are, so that it makes of them what it makes of a client's. Of what it does not read
    // and this browser does, and of what is larger than most need, it gets a drawing, with a word about it.
    const MOST_PIXELS = 24_000_000;
    async function readable(file) {
        if (file.stored) return {sent: file};
        const head = new Uint8Array(await file.slice(0, 16).arrayBuffer().catch(() => new ArrayBuffer(0)));
        const text = String.fromCharCode(...head);
        const isEmbeddings = text[8] === "{";
        const isRead = /^(\x89PNG|\xff\xd8\xff|GIF8|BM|II[*+]\0|MM\0[*+]|RIFF....WEBP)/s.test(text);
        const image = isEmbeddings || !head.length ? null : await opened(file);
        try {
            if (!image || isRead && image.naturalWidth * image.naturalHeight <= MOST_PIXELS) return {sent: file};
            const {drawing, width, height} = await (await ipAdapter.loadSubject("redraw"))(image, file.type);
            return {sent: drawing, word: `was redrawn at ${width}×${height}.`};
        } catch {
            return {sent: file};  // the server says what is wrong with it
        } finally {
            if (image) URL.revokeObjectURL(image.src);
        }
    }
    // As an image whose size is known; null for what this browser cannot draw.
    function opened(file) {
        return new Promise((resolve) => {
            const image = new Image(), address = URL.createObjectURL(file);
            image.onload = () => resolve(image);
            image.onerror = () => {
                URL.revokeObjectURL(address);
                resolve(null);
            };
            image.src = address;
        });
    }
    function dataOf(file) {
        if (file.stored) return Promise.resolve(file.stored);  // named, not sent (panel/shelf.js)
        return new Promise((resolve) => {
            const reader = new FileReader();
            reader.onload = () => resolve(reader.result);
            reader.onerror = () => resolve("");  // the server says that it is no picture
            reader.readAsDataURL(file);
        });
    }
    const nameIn = (address) => /^https?:/.test(address) && new URL(address).pathname.split("/").pop() || "picture";
    async function download(address) {
        const answer = await fetch(address, {referrerPolicy: "no-referrer"});
        const blob = await answer.blob();
        if (!answer.ok || !blob.type.startsWith("image/")) throw new Error(`${address} is no picture`);
        return new File([blob], nameIn(address), {type: blob.type});
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
    function tellGone(tab, address) {
        ipAdapter.notes.clear(tab);
        ipAdapter.notes.tell(
            tab, nameIn(address), "The picture cannot be read any more: save it and drop the file, or make it again.",
        );
        tab.element("drop_area").scrollIntoView({block: "nearest", behavior: "smooth"});
    }

    // The buttons call this (send_to.py).
    async function send(source) {
        ipAdapter.noteLastTab();
        const address = pictureIn(source);
        if (!address) return ipAdapter.page.tabs.txt2img.press("nothing");
        const tab = ipAdapter.page.lastTab;
        const file = await download(address).catch((error) => void console.warn("IP-Adapter:", error));
        openTab(tab);
        ipAdapter.dropping.unfold(tab);
        if (!file) return tellGone(tab, address);
        const {units, shown} = tab.state;
        const isFree = (number) => !units[number - 1].images?.length;
        const number = [shown, ...units.map((_, i) => i + 1)].find(isFree) ?? shown;
        if (number !== shown) await ipAdapter.units.show(tab, number);  // what is shown already stays as it is
        add(tab, [file], number);
        tab.panel.scrollIntoView({block: "nearest", behavior: "smooth"});
    }

    return {add, addMask, whole, isUnderWay, pictureIn, send, nameIn, download, answerTaken};
})();
