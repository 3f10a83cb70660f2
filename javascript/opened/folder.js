// The strip of the shown unit's folder of references: which one, how its pictures are used, and the first few of them as
// the server finds them (folder_row.py). The state has the folder as a text, as controls.py reads it:
// "path shuffle:7 start:2 weight:0.5". Names of files and folders come as text, never as HTML.
ipAdapter.folder = (() => {
    const REST = 400;  // milliseconds without typing, before the server is asked
    const LONGEST = 4196;  // characters of the text (controls.py); a longer one is refused by the server
    const HOWS = {average: "Averaged into one", each: "One for each picture", beside: "All side by side"};
    const OWN = "Joined as chosen under Advanced";  // another way to make one of them
    const ORDERS = {name: "By name", shuffle: "Shuffled"};
    const isOpen = {txt2img: false, img2img: false};
    const asked = {}, timers = {};
    const stripOf = (tab) => ipAdapter.byId(`${tab.name}_ip_adapter_folder_strip`);
    const openerOf = (tab) => tab.element("drop_area").querySelector(".ip-adapter-folder-opener");
    function make(name, attributes = {}, ...children) {
        const element = document.createElement(name);
        for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
        element.append(...children);
        return element;
    }

    // Its text, and what is in it

    function read(text) {
        let path = (text ?? "").trim();
        const words = [];
        while (path.length <= LONGEST) {
            const word = path.split(/\s/).at(-1);
            if (word.length === path.length || !/^(?:shuffle|start|weight):\S/.test(word)) break;
            words.unshift(word);
            path = path.slice(0, -word.length).trimEnd();
        }
        const own = Object.fromEntries(words.map((word) => word.split(":", 2)));
        return {
            path, order: own.shuffle === undefined ? "name" : "shuffle", seed: own.shuffle ?? "0",
            start: own.start ?? "0", weight: own.weight ?? "1",
        };
    }
    function written({path, order, seed, start, weight}) {
        if (!path.trim()) return "";
        const words = [
            [order === "shuffle", `shuffle:${seed || 0}`], [Number(start), `start:${start}`],
            [weight !== "" && Number(weight) !== 1, `weight:${weight}`],
        ];
        return [path.trim(), ...words.filter(([is]) => is).map(([, word]) => word)].join(" ");
    }
    function howOf({batch = "same", combine = "concat"}) {
        if (batch !== "same") return "each";
        return {concat: "beside", average: "average"}[combine] ?? "own";
    }
    const USED = {
        average: {combine: "average", batch: "same"}, each: {combine: "concat", batch: "per image"},
        beside: {combine: "concat", batch: "same"}, own: {batch: "same"},
    };

    // The strip

    const labelled = (text, field) => make("label", {}, make("span", {}, text), field);
    function chosen(name, choices) {
        const options = Object.entries(choices).map(([value, text]) => make("option", {value}, text));
        return make("select", {"data-part": name}, ...options);
    }
    const number = (name, limits) => make("input", {type: "number", "data-part": name, ...limits});
    function frame(tab) {
        const id = `${tab.name}_ip_adapter_folder_strip`;
        const path = make("input", {
            type: "text", "data-part": "path", list: `${id}_offered`, autocomplete: "off", spellcheck: "false",
            placeholder: "Path of a folder, or its name", "aria-describedby": `${id}_problem`,
        });
        const title = "Take the folder out of the unit";
        const remove = make("button", {type: "button", class: "ip-adapter-folder-remove", title}, "Remove folder");
        const strip = make("div", {id, class: "ip-adapter-folder", role: "group", "aria-label": "Folder of references"},
            make("div", {class: "ip-adapter-folder-line"}, labelled("Folder of references", path), remove),
            make("datalist", {id: `${id}_offered`, translate: "no"}),
            make("div", {id: `${id}_problem`, class: "ip-adapter-problem", role: "status"}),
            make("div", {class: "ip-adapter-folder-line"},
                labelled("Its pictures are", chosen("how", {...HOWS, own: OWN})),
                labelled("Order", chosen("order", ORDERS)),
                labelled("Seed", number("seed", {min: 0, step: 1})),
                labelled("First", number("start", {min: 0, step: 1, title: "The place of the first picture, from 0 on"})),
                labelled("Weight", number("weight", {min: -1, max: 3, step: 0.05})),
            ),
            make("div", {class: "ip-adapter-folder-about", role: "status"}),
            make("div", {class: "ip-adapter-folder-pictures"}),
        );
        strip.addEventListener("input", ({target}) => change(tab, target));
        strip.addEventListener("keydown", (event) => {
            if (event.key !== "Escape") return;
            event.stopPropagation();  // to the WebUI it means that the job is to end
            openerOf(tab).focus({preventScroll: true});
            if (!tab.shownUnit.folder?.trim()) toggle(tab);
        });
        strip.addEventListener("focusout", () => setTimeout(() => { if (stripOf(tab)) fill(tab, tab.shownUnit); }));
        remove.addEventListener("click", () => {
            ipAdapter.undo.remember(tab, "removed the folder");
            isOpen[tab.name] = false;
            tab.changeShownUnit((unit) => { unit.folder = ""; });
            openerOf(tab).focus({preventScroll: true});
        });
        tab.element("drop_area").parentElement.after(strip);
    }
    const partsOf = (strip) => Object.fromEntries([...strip.querySelectorAll("[data-part]")].map((one) => [one.dataset.part, one]));
    function change(tab, field) {
        const parts = partsOf(stripOf(tab)), {how} = parts;
        const now = Object.fromEntries(Object.entries(parts).map(([name, one]) => [name, one.value]));
        const typed = read(now.path);  // perhaps with words, as parameters and presets have them
        if (typed.path !== now.path.trim()) Object.assign(now, typed);
        const isFirst = now.path.trim() && !tab.shownUnit.folder?.trim();
        if (isFirst) ipAdapter.units.tick(tab);
        tab.changeShownUnit((unit) => {
            // Who gives a folder does not want all of it side by side.
            if (field === how) Object.assign(unit, USED[how.value]);
            else if (isFirst && howOf(unit) === "beside" && !unit.images?.length) Object.assign(unit, USED.average);
            unit.folder = written(now);
        });
    }
    function fill(tab, unit) {
        const strip = stripOf(tab), parts = partsOf(strip), now = {...read(unit.folder), how: howOf(unit)};
        for (const [name, field] of Object.entries(parts)) {
            if (field !== document.activeElement || field.matches("select")) field.value = now[name];
        }
        parts.how.querySelector("[value=own]").hidden = now.how !== "own";
        parts.seed.parentElement.hidden = now.order !== "shuffle";
        parts.start.parentElement.hidden = now.how !== "each";
        strip.querySelector(".ip-adapter-folder-remove").hidden = !now.path;
    }

    // What the server finds

    function draw(tab, unit, {offered = [], count = 0, notes = [], pictures = [], wrong, problem}) {
        const strip = stripOf(tab), how = howOf(unit);
        strip.querySelector("datalist").replaceChildren(...offered.map((value) => make("option", {value})));
        const others = (unit.images ?? []).filter(({negative, pose}) => !negative && !pose);
        const sentence = wrong ?? problem ?? (others.some(({at}) => at !== undefined)
            ? "A folder cannot stand beside references over time: put it into another unit, or give no reference a time."
            : how === "each" && others.length
            ? "A folder of one for each picture stands alone: put the unit's other references into the folder, or into another unit."
            : how === "beside" && count > tab.facts.references
            ? `Side by side are ${tab.facts.references} at most: average them, or give each picture one.` : "");
        strip.querySelector(".ip-adapter-problem").textContent = sentence && `⚠ ${sentence}`;
        strip.querySelector("[data-part=path]").setAttribute("aria-invalid", Boolean(wrong));
        const told = [count === 1 ? "1 picture" : `${count} pictures`, ...notes];
        strip.querySelector(".ip-adapter-folder-about").replaceChildren(
            ...count ? told.map((text) => make("span", {}, text)) : []);
        const few = pictures.map(({name, picture}, i) => {
            const shown = picture ? make("img", {alt: "", src: picture}) : make("span", {class: "ip-adapter-blank"}, "▦");
            const caption = how === "each" ? [make("b", {}, `Picture ${i + 1}`)] : [];
            return make("figure", {}, shown, make("figcaption", {}, ...caption, make("span", {translate: "no"}, name)));
        });
        if (count > few.length) few.push(make("span", {class: "ip-adapter-folder-more"}, `+${count - few.length}`));
        strip.querySelector(".ip-adapter-folder-pictures").replaceChildren(...few);
    }
    async function ask(tab) {
        const unit = tab.shownUnit, text = unit.folder ?? "", walks = howOf(unit) === "each", last = asked[tab.name];
        const answer = await ipAdapter.shelf.ask(tab, {ask: "folder", text, walks});
        if (asked[tab.name] !== last || !stripOf(tab) || (tab.shownUnit.folder ?? "") !== text) return;
        last.answer = answer.offered || answer.problem
            ? answer : {problem: "The server has not answered: write the folder again."};
        draw(tab, tab.shownUnit, last.answer);
    }

    // As the state says. Called at each of its changes.
    function follow(tab) {
        const unit = tab.shownUnit, isWanted = isOpen[tab.name] || Boolean(unit.folder?.trim());
        openerOf(tab).setAttribute("aria-expanded", isWanted);
        if (!isWanted) {
            delete asked[tab.name];
            return stripOf(tab)?.remove();
        }
        if (!stripOf(tab)) frame(tab);
        fill(tab, unit);
        const question = JSON.stringify([unit.folder ?? "", howOf(unit) === "each"]), last = asked[tab.name];
        if (last?.question === question) {
            if (last.answer) draw(tab, unit, last.answer);
            return;
        }
        asked[tab.name] = {question};
        clearTimeout(timers[tab.name]);
        timers[tab.name] = setTimeout(() => ask(tab), last ? REST : 0);
    }
    function toggle(tab) {
        const has = Boolean(tab.shownUnit.folder?.trim());
        isOpen[tab.name] = has || !stripOf(tab);
        follow(tab);
        stripOf(tab)?.querySelector("[data-part=path]").focus();
    }
    return {toggle, follow};
})();
