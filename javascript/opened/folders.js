// Pictures in dropped folders and in the folders in them.
ipAdapter.folders = (() => {
    const DEEPEST = 8, MOST_ENTRIES = 5000;  // a whole disk may be dropped
    const isPicture = ({name, type}) => type.startsWith("image/") || /\.(safetensors|avif|heic|jxl|tiff?)$/i.test(name);
    const fileOf = (entry) => new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    async function entriesIn(folder) {
        const reader = folder.createReader(), entries = [];
        const some = () => new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
        for (let read = await some(); read.length && entries.length < MOST_ENTRIES; read = await some()) {
            entries.push(...read);
        }
        return entries.sort((one, other) => one.name.localeCompare(other.name, undefined, {numeric: true}));
    }

    // `entries`: what was dropped. The answer has all files among them, of those in folders the pictures, `most` at
    // most in either case; the names of the others in folders; and whether there was more than is looked at.
    async function files(entries, most) {
        const found = [], others = [];
        let left = MOST_ENTRIES;
        async function look(entry, depth) {
            if (left-- <= 0 || depth > DEEPEST) return;
            if (entry.isDirectory) {
                for (const one of await entriesIn(entry)) await look(one, depth + 1);
            } else if (!entry.name.startsWith(".")) {
                const file = await fileOf(entry);
                if (file && (depth === 0 || isPicture(file)) && found.length < most) found.push(file);
                else others.push(entry.name);
            }
        }
        for (const entry of entries) await look(entry, 0);
        return {found, others, isCut: left < 0};
    }
    return {files};
})();
