//! The rules of the house: who may import whom, what shows its fields, and how long a file and a
//! function may be.
//!
//! Looks at the sources as they are in this tree, with the tests that stand in them left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{
    Attribute, Field, ImplItem, ImplItemFn, Item, ItemFn, ItemImpl, ItemMod, ItemStruct, ItemUse,
    Type, UseTree, Visibility,
};

/// Every crate.
const CRATES: [&str; 4] = ["src", "master/src", "worker/src", "contrib/bench/src"];
/// The floors of the worker, the lowest first: nobody imports from above. Those on one floor may
/// know each other.
const FLOORS: [&[&str]; 5] = [
    &["sys"],
    &["ids", "clock", "route", "scoreboard", "spec", "control", "trace"],
    &["disk"],
    &["access", "clients", "http", "sidechannel"],
    &["event_loop"],
];
/// Parts of the worker that show fields all the same: counters in memory that all processes share,
/// each for itself; and what an operation is lent for one turn.
const OPEN: [&str; 3] = ["WorkerSlot", "DeviceSlot", "Turn"];
/// For tests alone.
const SCAFFOLDS: [&str; 2] = ["failing_disk", "testing"];
/// Lines of a file, at most.
const LONGEST_FILE: usize = 450;
/// Lines of a function, at most, and in half of all.
const LONGEST_FUNCTION: usize = 60;
const USUAL_FUNCTION: usize = 12;

/// Modules by their path in the crate; the crate itself is the empty one.
type Modules = BTreeMap<Vec<String>, PathBuf>;

#[test]
fn files_import_each_other_in_no_circle() {
    for root in CRATES {
        let modules = modules(root);
        assert!(modules.len() > 1, "{root}");
        let circle = circle(imports(&modules));
        assert!(circle.is_empty(), "{root}: in a circle, or importing one: {circle:#?}");
    }
}

#[test]
fn the_worker_s_parts_import_nothing_from_above() {
    let floor = |module: &[String]| {
        let part = module.first()?;
        let known = FLOORS.iter().position(|floor| floor.contains(&&**part));
        assert!(known.is_some() || SCAFFOLDS.contains(&&**part), "{part} has no floor");
        known
    };
    let mut seen = 0;
    for (module, others) in imports(&modules("worker/src")) {
        let Some(own) = floor(&module) else { continue };
        for other in others {
            assert!(floor(&other) <= Some(own), "{module:?} imports {other:?}");
            seen += 1;
        }
    }
    assert!(seen > 200, "{seen}");
}

#[test]
fn only_the_loop_knows_the_worker() {
    for (module, path) in modules("worker/src") {
        let text = fs::read_to_string(&path).unwrap();
        let inside = module.first().is_some_and(|part| part == "event_loop");
        assert!(inside || !text.contains("impl Worker {"), "{}", path.display());
    }
}

#[test]
fn the_worker_s_parts_keep_their_fields_to_themselves() {
    let mut structs = Structs::default();
    for path in modules("worker/src").values() {
        structs.visit_file(&parsed(path));
    }
    assert!(structs.shown.len() > 20, "{}", structs.shown.len());
    let parts: Vec<_> = structs.parts().filter(|name| !OPEN.contains(name)).collect();
    assert!(parts.is_empty(), "they show fields: {parts:?}");
}

#[test]
fn files_are_short() {
    let files: Vec<_> = CRATES.into_iter().chain(["tests"]).flat_map(sources).collect();
    assert!(files.len() > 200, "{}", files.len());
    for path in files {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LONGEST_FILE, "{}: {lines} lines", path.display());
    }
}

#[test]
fn functions_are_short() {
    for root in CRATES {
        let mut lengths = Vec::new();
        for path in modules(root).values() {
            let mut functions = Functions::default();
            functions.visit_file(&parsed(path));
            for (name, lines) in functions.0 {
                let told = path.display();
                assert!(lines <= LONGEST_FUNCTION, "{told}: {name}: {lines} lines");
                lengths.push(lines);
            }
        }
        lengths.sort_unstable();
        let median = lengths[lengths.len() / 2];
        println!("{root}: {} functions, the median one of {median} lines", lengths.len());
        assert!(median < USUAL_FUNCTION, "{root}: {median}");
    }
}

#[test]
fn a_circle_is_found_and_what_only_leads_to_one() {
    let names = |of: &[&str]| of.iter().map(|name| vec![(*name).to_owned()]).collect();
    let graph = |edges: &[(&str, &[&str])]| {
        edges.iter().map(|(from, to)| (vec![(*from).to_owned()], names(to))).collect()
    };
    assert!(circle(graph(&[("a", &["b"]), ("b", &["c"]), ("c", &[])])).is_empty());
    let found = circle(graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["b", "d"]), ("d", &[])]));
    assert_eq!(found.into_keys().collect::<Vec<_>>(), [["a"], ["b"], ["c"]]);
}

#[test]
fn a_part_that_shows_a_field_is_found() {
    let parts = |text: &str| {
        let mut structs = Structs::default();
        structs.visit_file(&syn::parse_file(text).unwrap());
        structs.parts().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(parts("struct A { pub a: u8, b: u8 }"), "A", "it has something to hide");
    assert_eq!(parts("struct A { pub a: u8 } impl A { fn f(&mut self) {} }"), "A");
    assert_eq!(parts("struct A { pub(crate) a: AtomicU8 }"), "A");
    assert_eq!(parts("struct A { pub a: u8 } impl A { fn f(&self) {} fn g(mut self) {} }"), "");
    assert_eq!(parts("struct A { a: u8 } impl A { fn f(&mut self) {} }"), "");
    assert_eq!(parts("#[cfg(test)] mod tests { struct A { pub a: u8, b: u8 } }"), "");
}

#[test]
fn imports_are_seen_however_they_are_written() {
    let modules: Modules = [&[][..], &["a"], &["a", "b"], &["c"]]
        .into_iter()
        .map(|path| (path.iter().map(|&name| name.to_owned()).collect(), PathBuf::new()))
        .collect();
    let seen = |text: &str| {
        let me = ["a".to_owned(), "b".to_owned()];
        let found = imported(&modules, &me, &syn::parse_file(text).unwrap());
        found.into_iter().map(|path| path.join("::")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(seen("use crate::c::Name;"), "c");
    assert_eq!(seen("use crate::{a::{self, X}, c};"), "a c");
    assert_eq!(seen("fn f() { crate::c::g() }"), "c");
    assert_eq!(seen("type T = super::super::c::U;"), "c");
    assert_eq!(seen("use std::fs; fn f() { let c = 1; }"), "");
    assert_eq!(seen("#[cfg(test)] mod tests { use crate::c::Name; }"), "");
}

/// The modules of a crate, without those for tests alone.
fn modules(root: &str) -> Modules {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let files = sources(root).into_iter().filter(|path| !is_of_tests(path));
    let named = files.map(|path| {
        let name = path.strip_prefix(&folder).unwrap().with_extension("");
        let mut name: Vec<_> = name.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if name.last().is_some_and(|last| matches!(&**last, "mod" | "lib" | "main")) {
            name.pop();
        }
        (name, path)
    });
    named.collect()
}

/// The files below a folder that hold Rust.
fn sources(root: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(root)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// A file that is compiled for tests alone.
fn is_of_tests(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.ends_with("testing.rs")
}

fn parsed(path: &Path) -> syn::File {
    syn::parse_file(&fs::read_to_string(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Who imports whom. A folder's files may use what their own `mod.rs` has.
fn imports(modules: &Modules) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let mut found = BTreeMap::new();
    for (me, path) in modules {
        let mut others = imported(modules, me, &parsed(path));
        others.retain(|other| !me.starts_with(other));
        found.insert(me.clone(), others);
    }
    found
}

fn imported(modules: &Modules, me: &[String], file: &syn::File) -> BTreeSet<Vec<String>> {
    let mut uses = Uses::default();
    uses.visit_file(file);
    let mut found = BTreeSet::new();
    for path in uses.0 {
        let Some(mut path) = from_the_crate(modules, me, path) else { continue };
        while !modules.contains_key(&path) {
            path.pop(); // An item in a module.
        }
        if path != me {
            found.insert(path);
        }
    }
    found
}

/// The same path, seen from the crate; `None` when it leads to another one.
fn from_the_crate(modules: &Modules, me: &[String], path: Vec<String>) -> Option<Vec<String>> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    let below = |levels: usize, rest: &[String]| [&me[..me.len() - levels], rest].concat();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some(below(0, &path[1..])),
        "super" => Some(below(supers, &path[supers..])),
        first => {
            let child = [me, &[first.to_owned()]].concat();
            modules.contains_key(&child).then(|| below(0, &path))
        }
    }
}

/// Takes away whoever imports nobody that is left. What stays is in a circle or leads to one.
fn circle(
    mut graph: BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    loop {
        let free: Vec<_> =
            graph.iter().filter(|(_, to)| to.is_empty()).map(|(from, _)| from.clone()).collect();
        if free.is_empty() {
            return graph;
        }
        for name in free {
            graph.remove(&name);
            graph.values_mut().for_each(|to| {
                to.remove(&name);
            });
        }
    }
}

/// The paths that a file names.
#[derive(Default)]
struct Uses(Vec<Vec<String>>);

impl Uses {
    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) if name.ident == "self" => self.0.push(before.to_vec()),
            UseTree::Name(name) => self.0.push(with(&name.ident)),
            UseTree::Rename(name) => self.0.push(with(&name.ident)),
            UseTree::Glob(_) => self.0.push(before.to_vec()),
            UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.tree(before, item));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.0.push(path.segments.iter().map(|part| part.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

/// Structs that show fields, with whether that alone makes them parts; and those that a method
/// changes. Known by their names alone.
#[derive(Default)]
struct Structs {
    shown: BTreeMap<String, bool>,
    changed: BTreeSet<String>,
}

impl Structs {
    /// Parts that show fields. Plain data shows all of its fields, and has no method that changes
    /// it: whoever has it may.
    fn parts(&self) -> impl Iterator<Item = &str> {
        let is_part = |(name, part): &(&String, &bool)| **part || self.changed.contains(*name);
        self.shown.iter().filter(is_part).map(|(name, _)| name.as_str())
    }
}

impl<'ast> Visit<'ast> for Structs {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        let is_shown = |field: &&Field| !matches!(field.vis, Visibility::Inherited);
        let (shown, hidden): (Vec<_>, Vec<_>) = item.fields.iter().partition(is_shown);
        if !shown.is_empty() {
            let part = !hidden.is_empty() || shown.into_iter().any(changes_when_shared);
            self.shown.insert(item.ident.to_string(), part);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        let changes = |item: &ImplItem| {
            let ImplItem::Fn(function) = item else { return false };
            let me = function.sig.receiver();
            me.is_some_and(|me| me.reference.is_some() && me.mutability.is_some())
        };
        if let Type::Path(of) = &*item.self_ty
            && item.items.iter().any(changes)
        {
            self.changed.extend(of.path.segments.last().map(|part| part.ident.to_string()));
        }
    }
}

/// A lock, an atomic, or the like.
fn changes_when_shared(field: &Field) -> bool {
    let Type::Path(of) = &field.ty else { return false };
    of.path.segments.iter().any(|part| {
        let name = part.ident.to_string();
        name.starts_with("Atomic") || ["Mutex", "Cell", "RefCell", "OnceLock"].contains(&&*name)
    })
}

/// The functions of a file, and how many lines each has.
#[derive(Default)]
struct Functions(Vec<(String, usize)>);

impl Functions {
    fn note(&mut self, name: &syn::Ident, whole: proc_macro2::Span) {
        self.0.push((name.to_string(), whole.end().line - whole.start().line + 1));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.note(&item.sig.ident, item.sig.span().join(item.block.span()).unwrap());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.note(&item.sig.ident, item.sig.span().join(item.block.span()).unwrap());
        visit::visit_impl_item_fn(self, item);
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        _ => &[],
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}
