// What is in the panel is kept in this browser (IndexedDB), and is there again when the page or the server has been
// started anew: the state, and what has gone to the server as pictures. Pictures that have come from there are kept by
// their content hash if presets have them. Where the browser keeps nothing, nothing is kept.
(window.ipAdapter ??= {}).keep = (() => {
    const MOST_BYTES = 100e6, LONGEST = 30 * 24 * 3600e3;  // of a tab's files; milliseconds
    const tabs = () => Object.values(ipAdapter.page.tabs);

    // The database: "panels" by the tab's name, "files" by the picture's key. A panel and its files are written in one
    // transaction; of two pages of one browser, the one that was changed last is kept.

    let opened = null;
    function database() {
        opened ??= new Promise((resolve, reject) => {
            const request = indexedDB.open(`ip-adapter ${location.pathname}`, 1);
            request.onupgradeneeded = () => {
                for (const name of ["panels", "files"]) request.result.createObjectStore(name);
            };
            request.onsuccess = () => resolve(request.result);
            request.onerror = () => reject(request.error);
        });
        return opened;
    }
    const result = (request) => new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
    });
    async function change(mode, body) {
        const transaction = (await database()).transaction(["panels", "files"], mode);
        const done = new Promise((resolve, reject) => {
            transaction.oncomplete = resolve;
            transaction.onerror = transaction.onabort = () => reject(transaction.error);
        });
        done.catch(() => {});
        const [panels, files] = ["panels", "files"].map((name) => transaction.objectStore(name));
        const value = await body(panels, files);
        if (mode === "readwrite") await done;
        return value;
    }
    async function removeUnused(panels, files) {
        const used = new Set((await result(panels.getAll())).flatMap(({keys}) => keys));
        for (const key of await result(files.getAllKeys())) if (!used.has(key)) files.delete(key);
        ipAdapter.shelf.noteKept(await result(panels.count()) > 0);
    }
    // Nobody is told that something cannot be kept.
    const quietly = (action) => async (...values) => {
        try {
            return await action(...values);
        } catch (error) {
            console.debug("IP-Adapter: the panel is not kept:", error);
            return undefined;
        }
    };

    // Keeping

    // Some references are no pictures of the page's: only while a picture is made it is known which they are.
    const isNamed = ({controlnet, start_picture: isStart}) => controlnet !== undefined || isStart;
    function keysOf({units}) {
        const keys = units.flatMap(({images = [], region}) => [
            region, ...images.flatMap((one) => [isNamed(one) ? null : one.key, one.mask, one.region]),
        ]);
        return keys.filter(Boolean);
    }
    async function gather(tab, keys) {
        const {files, arrived} = tab.keep;
        for (const key of keys.filter((key) => arrived.has(key))) {
            const {data} = JSON.parse(arrived.get(key));
            if (data.startsWith("look:")) {  // what it holds is kept, whatever becomes of the name
                arrived.delete(key);
                continue;
            }
            const file = data.startsWith("data:") ? await (await fetch(data)).blob() : data;
            files.set(key, file);
            arrived.delete(key);
        }
        const underWay = new Set(tab.delivery.queue.map(({key}) => key));
        const unknown = keys.filter((key) => !files.has(key) && !underWay.has(key));
        const {pictures = {}} = unknown.length ? await ipAdapter.shelf.ask(tab, {ask: "kept", keys: unknown}) : {};
        for (const [key, data] of Object.entries(pictures)) {
            files.set(key, data.startsWith("data:") ? await (await fetch(data)).blob() : data);
        }
        for (const key of files.keys()) if (!keys.includes(key)) files.delete(key);
        for (const key of arrived.keys()) if (!keys.includes(key)) arrived.delete(key);
    }
    function bounded(files) {
        let left = MOST_BYTES;
        return [...files].filter(([, file]) => (left -= file.size ?? 0) >= 0);
    }
    async function save(tab) {
        try {
            await database();
        } catch {
            return tab.keep.arrived.clear();
        }
        const {state} = tab;
        Object.assign(ipAdapter.shownUnit(state), tab.shownFields);
        await gather(tab, keysOf(state));
        const kept = bounded(tab.keep.files);
        const panel = {
            state, isTicked: Boolean(tab.tickbox?.checked), keys: kept.map(([key]) => key), time: Date.now(),
        };
        await change("readwrite", async (panels, files) => {
            if (ipAdapter.shelf.hasPictures(state)) panels.put(panel, tab.name);
            else panels.delete(tab.name);
            const there = new Set(await result(files.getAllKeys()));
            for (const [key, file] of kept) if (!there.has(key)) files.put(file, key);
            await removeUnused(panels, files);
        });
    }

    // Restoring: only into a panel that has no pictures. Its tick may have been set while this was on its way: it stays.

    const isEmpty = (tab) => tab.panel && !ipAdapter.shelf.hasPictures(tab.state);
    async function read() {
        return change("readonly", async (panels, files) => {
            const found = {};
            for (const {name} of tabs()) {
                const panel = await result(panels.get(name));
                if (!panel || Date.now() - panel.time > LONGEST) continue;
                const pairs = [];
                for (const key of panel.keys) pairs.push([key, await result(files.get(key))]);
                found[name] = {...panel, files: new Map(pairs.filter(([, file]) => file !== undefined))};
            }
            return found;
        });
    }
    async function restore() {
        const found = await read();
        for (const tab of tabs()) if (found[tab.name] && isEmpty(tab)) await restoreTab(tab, found[tab.name]);
    }
    // All units are shown as they were; pictures follow, and are on their way until then.
    async function restoreTab(tab, {state, isTicked, files}) {
        const before = tab.state, blank = JSON.stringify(before);
        const has = (key) => files.has(key);
        let lost = 0;
        for (const unit of state.units) {
            const images = (unit.images ?? []).filter((one) => isNamed(one) || has(one.key));
            lost += (unit.images ?? []).length - images.length;
            const masks = [unit.region, ...images.flatMap(({mask, region}) => [mask, region])].filter(Boolean);
            lost += masks.filter((key) => !has(key)).length;
            unit.images = images.map(({mask, region, waiting, ...one}) => ({
                ...one, ...(has(mask) ? {mask} : {}), ...(has(region) ? {region} : {}),
                ...(isNamed(one) ? {} : {waiting: true}),
            }));
            if (!has(unit.region)) delete unit.region;
        }
        state.units.push(...before.units.slice(state.units.length));
        if (!ipAdapter.shelf.hasPictures(state)) return;
        await put(tab, state);
        if (isTicked && !tab.tickbox.checked) tab.tickbox.click();
        for (const [key, file] of files) {
            tab.keep.files.set(key, file);
            ipAdapter.pictures.addMask(tab, file.size === undefined ? ipAdapter.shelf.stored(file) : file, key);
        }
        tell(tab, blank, lost);
    }
    async function put(tab, state) {
        const text = JSON.stringify(keysOf(state));
        ipAdapter.units.restore(tab, state);
        await ipAdapter.pause(0);
        await ipAdapter.waitUntil(() => !tab.restored && JSON.stringify(keysOf(tab.state)) === text, 5000);
    }
    function tell(tab, blank, lost) {
        const line = document.createElement("div"), text = document.createElement("span");
        const button = Object.assign(document.createElement("button"), {type: "button"});
        Object.assign(line, {className: "ip-adapter-restored ip-adapter-note"}).setAttribute("role", "status");
        text.textContent = "Restored what was in the panel.";
        button.textContent = "Start empty";
        button.title = "Take everything out of the panel";
        line.append(text, button);
        if (lost) {
            const more = document.createElement("span");
            more.textContent = "Some references, masks or regions are no longer kept: add them again.";
            text.after(more);
        }
        tab.element("note").after(line);
        button.addEventListener("click", async () => {
            ipAdapter.undo.remember(tab, "started empty");
            line.remove();
            tab.element("preset_shelf")?.focus({preventScroll: true});
            if (tab.tickbox?.checked) tab.tickbox.click();
            await put(tab, JSON.parse(blank));
        });
        // It has been read when a picture is made, or when something else is told.
        ipAdapter.byId(`${tab.name}_generate`)?.addEventListener("click", () => line.remove(), {once: true});
        const told = () => tab.element("note").querySelector(".prose, .html-container")?.textContent ?? "";
        const before = told();
        new MutationObserver((_, observer) => {
            if (told() === before) return;
            line.remove();
            observer.disconnect();
        }).observe(tab.element("note"), {childList: true, subtree: true, characterData: true});
    }
    return {save: quietly(save), restore: quietly(restore)};
})();
