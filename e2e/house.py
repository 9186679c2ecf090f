"""Counts what says how the house stands: `python3 e2e/house.py [CHECKOUT]`, needs nothing but Python.

Prints one table: the walk of a PUBLISH, circles of imports, the gateway's largest folder, copies of plumbing,
private words, long comment lines. It judges nothing; the tests of form hold what must not grow.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
WIDTH = 110

# A piece of plumbing and the lines that give a copy of it away, in product code outside `chassis`.
PLUMBING = {
    "rebalance callbacks": r"impl\s+ConsumerContext\s+for",
    "transactional producer": r"\.begin_transaction\(",
    "read to the stable end": r"fetch_watermarks\(|\.offsets_for_times\(",
    "retry loop of its own": r"Backoff::new|retry::Backoff|Backoff::between",
    "REST server": r"HttpServer::new",
    "metrics registration": r"registry\.register\(|register_(int_)?(counter|gauge|histogram)",
    "problem+json type": r"struct Problem\b",
    "dead-letter header names": r"\"(source-topic|source_topic|received_at|received-at|dead-letter-reason)\"",
    "list of services": r"\"cdc-svc\"",
}

# The private words that a test of form bans, with the one member that each is banned in, if it is one.
WORDS = re.findall(
    r'\("(\w+)", "[^"]*", (?:None|Some\("([\w-]+)"\))\)',
    (Path(__file__).resolve().parent / "tests/form/words.rs").read_text(),
)


def product_files():
    """Yields Rust sources of crates, without tests, fuzzers, benches and test tools."""
    for path in sorted(ROOT.glob("*/src/**/*.rs")):
        parts = path.relative_to(ROOT).parts
        if parts[0] in ("target", "testkit", "e2e", "bench"):
            continue
        if "tests" in parts or path.stem in ("tests", "fuzz", "fuzzed"):
            continue
        yield path


def without_tests(text):
    """Returns the text before an inline `mod tests`."""
    return re.split(r"\n#\[cfg\(test\)\]\n(?:pub\(crate\) )?mod \w+ \{", text)[0]


def module_of(path):
    """Returns the module path of a file inside its crate, as a tuple; the crate's root is ()."""
    parts = list(path.relative_to(ROOT).parts[2:])
    parts[-1] = parts[-1][:-3]
    if parts[-1] in ("mod", "lib", "main"):
        parts.pop()
    return tuple(parts)


def used_paths(text):
    """Yields each path that the file takes from its own crate, as a list of segments after `crate` or `super`."""
    for found in re.finditer(r"\b(crate|super(?:::super)*)::((?:\w+::)*)(\{[^;]*?\}|\w+)", text, re.S):
        head = [segment for segment in found.group(2).split("::") if segment]
        tail = found.group(3)
        leaves = re.findall(r"[\w:]+", tail.strip("{}")) if tail.startswith("{") else [tail]
        for leaf in leaves:
            yield found.group(1), head + leaf.split("::")


def imports(crate_files):
    """Returns file → files of the same crate that it takes names from."""
    modules = {module_of(path): path for path in crate_files if path.name != "main.rs"}
    arrows = defaultdict(set)
    for path in crate_files:
        text = without_tests(path.read_text())
        text = re.sub(r"//[^\n]*", "", text)
        here = module_of(path)
        for start, segments in used_paths(text):
            base = () if start == "crate" else here[: len(here) - start.count("super")]
            wanted = base + tuple(segments)
            while wanted not in modules and wanted:
                wanted = wanted[:-1]
            target = modules.get(wanted)
            if target and target != path:
                arrows[path].add(target)
    return arrows


def circles(arrows):
    """Returns the strongly connected components of more than one file (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in arrows.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = []
            while True:
                component.append(stack.pop())
                if component[-1] == node:
                    break
            if len(component) > 1:
                found.append(sorted(component))

    for node in list(arrows):
        if node not in index:
            visit(node)
    return found


def walk():
    """Returns the files of the gateway that ARCHITECTURE's walk of a PUBLISH names, in its order."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    found = re.search(r"\n### A PUBLISH, from its socket[^\n]*\n(.*?)(?=\n## )", text, re.S)
    names = re.findall(r"`([\w/]+\.rs)`", found.group(1)) if found else []
    # `lib.rs` wires and takes no part; a name without its folder is the one file of that name.
    sources = [str(path.relative_to(ROOT / "gateway/src")) for path in (ROOT / "gateway/src").rglob("*.rs")]
    find = lambda name: next((path for path in sources if path == name or path.endswith(f"/{name}")), name)
    return [find(name) for name in names if name != "lib.rs"]


def main():
    files = list(product_files())
    texts = {path: without_tests(path.read_text()) for path in files}
    rows = []

    steps = walk()
    missing = [step for step in steps if not (ROOT / "gateway/src" / step).exists()]
    rows.append(("files on a PUBLISH's walk (as ARCHITECTURE.md tells it)", len(set(steps)) or "not described"))
    rows.append(("returns to a file already left", len(steps) - len(set(steps)) if steps else "not described"))
    rows.append(("files of the walk that do not exist", len(missing)))

    by_crate = defaultdict(list)
    for path in files:
        by_crate[path.relative_to(ROOT).parts[0]].append(path)
    all_circles = [(crate, circle) for crate, members in by_crate.items() for circle in circles(imports(members))]
    rows.append(("circles of imports", len(all_circles)))
    rows.append(("files in circles", sum(len(circle) for _, circle in all_circles)))
    upward = [p for members in by_crate.values() for p, targets in imports(members).items()
              if any(t.name == "lib.rs" for t in targets)]
    rows.append(("files that take a name from the roof (their crate's lib.rs)", len(upward)))

    folders = defaultdict(int)
    for path in by_crate["gateway"]:
        folders[path.parent.relative_to(ROOT)] += len(path.read_text().splitlines())
    folder = max(folders, key=folders.get)
    rows.append((f"lines in the gateway's largest folder ({folder})", folders[folder]))

    for piece, sign in PLUMBING.items():
        outside = [p for p, t in texts.items() if p.relative_to(ROOT).parts[0] != "chassis" and re.search(sign, t)]
        rows.append((f"files outside chassis with: {piece}", len(outside)))

    private = 0
    for path, text in texts.items():
        member = path.relative_to(ROOT).parts[0]
        banned = [word for word, only in WORDS if only in ("", member)]
        private += len(re.findall(r"\b(" + "|".join(banned) + r")\b", text))
    rows.append(("private words", private))
    everything = [p for p in ROOT.glob("*/**/*.rs") if "target" not in p.relative_to(ROOT).parts]
    wide = [l for p in everything for l in p.read_text().splitlines() if len(l) > WIDTH and l.lstrip().startswith("//")]
    rows.append((f"comment lines over {WIDTH} columns", len(wide)))

    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    for crate, circle in all_circles:
        print(f"circle in {crate}: {', '.join(str(p.relative_to(ROOT / crate / 'src')) for p in circle)}")


main()
