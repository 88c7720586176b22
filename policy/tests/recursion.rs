//! What needs itself is refused before it is ever evaluated, in whatever way it comes back to itself.

use gantry_policy::Policy;

/// The error, without the help that each has.
fn refused(rules: &str) -> Option<String> {
    let source = format!("package spacelift\ndeny := set()\n{rules}");
    let error = Policy::compile("init.rego", &source).err()?.to_string();
    let (what, help) = error.split_once(": Rego has no recursion").unwrap_or((&error, ""));
    assert!(help.contains("walk"), "{error}\n{source}");
    Some(what.to_owned())
}

#[test]
fn a_function_that_calls_itself_is_refused_with_its_place() {
    let source = "package spacelift\nf(x) := f(x + 1)\ndeny contains \"x\" if f(1)\n";
    assert_eq!(
        Policy::compile("init.rego", source).unwrap_err().to_string(),
        "init.rego:2:1: `f` needs itself: f -> f: Rego has no recursion: take the way back out of it, and use `walk` or `graph.reachable` to follow what is nested"
    );
}

#[test]
fn recursion_is_refused_however_it_comes_about() {
    for rules in [
        // Functions and rules, by themselves and by each other.
        "f(x) := f(x)",
        "a := b\nb := a",
        "a := b\nb := c\nc := [1, a]",
        "a if b\nb if not a",
        "a if { x := f(1); x > 1 }\nf(x) := x if a",
        "s contains x if some x in s",
        "o[k] := v if some k, v in o",
        // Every place in a rule.
        "f(x) := y if { y := [z | z := f(x)] }",
        "f(x) := {z | z := f(x)}",
        "f(x) := {\"a\": f(x)}",
        "f(x) := {k: v | k := \"a\"; v := f(x)}",
        "f(x) := f(x) + 1",
        "f(x) := -1 if x == 1\nelse := f(x - 1)",
        "f(x) := -1 if x == 1\nelse := 2 if f(x - 1) == 3",
        "default f(_) := 1\nf(x) := f(x - 1) if x > 1",
        "default a := [x | x := a]",
        "a if every x in [1] { x == 1; a }",
        "a if every x in a { x == 1 }",
        "a if some x in [y | y := a]",
        "s contains a[0]\na := [1 | s[1]]",
        "a := 1 if { input.x[b] }\nb := a",
        "a if 1 in b\nb := [a]",
        "a if { x = a }",
        "a := count(a)",
        "a := a.b.c",
        "a := 1 if { a with input as 1 }",
        // What `with` puts in the place of something else.
        "a if { input.x with input as a }",
        "f(x) := count(x)\ng(x) := f(x)\na := 1 if { f(1) with count as g }",
        "f(x) := h(x)\nh(x) := 1\ng(x) := f(x)\na := 1 if { f(1) with h as g }",
        // Other names of the same.
        "a := data.spacelift.a",
        "a := data.spacelift[\"a\"]",
        "a := data[\"spacelift\"].b\nb := a",
        "a.b := a.c\na.c := a.b",
        "a := b.c\nb.c := a",
        "a := b\nb.c := a",
        // Whatever may be meant.
        "a := data.spacelift[input.x]",
        "a := data.spacelift",
        "a := data[input.x].b",
        "a := data",
        "a := count(data)",
        "a := data.gantry.harness.outcome\ns contains a",
        "sample := data.gantry.harness.outcome",
    ] {
        let said = refused(rules);
        if rules.starts_with("a := data.gantry") {
            // Nothing that decides needs it.
            assert_eq!(said, None, "{rules}");
            continue;
        }
        let said = said.unwrap_or_else(|| panic!("not refused: {rules}"));
        assert!(said.starts_with("init.rego:") && said.contains(" needs itself: "), "{said}");
    }
}

#[test]
fn recursion_in_v0_and_by_imports_is_refused() {
    for rules in [
        "f(x) = y { y := f(x) }",
        "deny[m] { deny[m] }",
        "deny[m] { m := a }\na = x { deny[x] }",
        "a { true } else = b { b }\nb { a }",
    ] {
        let source = format!("package spacelift\ndeny[\"x\"] {{ false }}\n{rules}\n");
        let error = Policy::compile("init.rego", &source).expect_err(rules).to_string();
        assert!(error.contains("needs itself"), "{error}");
    }
    for import in ["import data.spacelift as own", "import data.spacelift.a as own"] {
        let source = format!("package spacelift\n{import}\ndeny := set()\na := b\nb := own\n");
        let error = Policy::compile("init.rego", &source).expect_err(import).to_string();
        assert!(error.contains("needs itself"), "{error}");
    }
}

/// A name that hides a rule means what it is given, not the rule.
#[test]
fn what_only_looks_like_recursion_is_taken() {
    for rules in [
        "f(x) := x + 1\na := f(f(1))",
        "f(a) := a\na := f(1)",
        "f([a, {\"k\": b}]) := a + b\na := f([1, {\"k\": 1}])\nb := 1",
        "a := 1 if { b := 1; b == 1 }\nb := a",
        "a := [x | x := 1]\nx := a",
        "a.b := 1\na.c := a.b",
        "a := input.a\nb := input.a.b",
        "b := {\"a\": 1}.a\na := b",
        "a := data.other.a",
        "count(x) := 1\na := count([])",
        "walked := [p | [p, _] := walk(input)]",
        "a if { input.x with input.x as b }\nb := 1",
        "a if { input.x == 1 with data.spacelift.c as b }\nb := c\nc := 1",
    ] {
        assert_eq!(refused(rules), None, "{rules}");
    }
}

#[test]
fn a_long_circle_is_shown_in_part() {
    let rules: Vec<String> = (0..2000).map(|n| format!("r{n} := r{}\n", (n + 1) % 2000)).collect();
    assert_eq!(
        refused(&rules.concat()).expect("it is a circle"),
        "init.rego:3:1: `r0` needs itself: r0 -> r1 -> r2 -> r3 -> r4 -> r5 -> r6 -> r7 -> … -> r0"
    );
}

/// As many rules and mentions as fit into a policy: the work grows with its length, not with its square.
#[test]
fn the_largest_policy_is_looked_through() {
    let rules: Vec<String> =
        (0..19_000).map(|n| format!("r{n} := data.other[input.x]\n")).collect();
    let rules = rules.concat();
    assert_eq!(refused(&format!("{rules}all := {{data.other, data.another}}\n")), None);
}
