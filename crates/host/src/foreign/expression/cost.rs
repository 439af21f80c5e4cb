//! What an expression may cost at most, before it is evaluated: neither time nor memory of an evaluation can be bounded
//! while it runs.
//!
//! The bound follows from the expression and the sizes of the variables that it reads. A unit is about a nanosecond; bytes
//! that are made count more, so that the bound is one of memory, too.

use std::collections::HashMap;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, LiteralValue, operators,
};
use cel::{IdedExpr, Value};

/// Evaluating any node.
const NODE: u64 = 50;
/// A byte of a new value.
const BYTE_MADE: u64 = 8;
/// A byte that a function looks at.
const BYTE_READ: u64 = 1;
/// An element of a new list or map.
const ITEM_MADE: u64 = 100;
/// A regular expression is compiled at each evaluation; measured with patterns of [`PATTERN_BYTES_MAX`].
const PATTERN: u64 = 1_200_000;
/// A byte that is matched, with the worst of those patterns.
const BYTE_MATCHED: u64 = 256;
/// Bytes of a compiled pattern.
const PATTERN_BYTES_MAX: usize = 256 << 10;

/// At most so large, and made at most at this cost.
#[derive(Clone, Copy, Debug, Default)]
struct Bound {
    /// Bytes of all that is in it.
    bytes: u64,
    /// Elements in it, however deep.
    items: u64,
    /// Bytes of the largest text in it.
    leaf: u64,
    /// Lists and maps in each other; 0 for a text or a number.
    depth: u64,
    cost: u64,
}

impl Bound {
    fn scalar(bytes: u64) -> Self {
        Self { bytes, leaf: bytes, ..Self::default() }
    }

    /// Both, beside each other.
    fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            items: self.items.saturating_add(other.items),
            leaf: self.leaf.max(other.leaf),
            depth: self.depth.max(other.depth),
            cost: self.cost.saturating_add(other.cost),
        }
    }

    /// An element, or a field.
    fn inner(self) -> Self {
        match self.depth {
            0 | 1 => Self { bytes: self.leaf, items: 0, depth: 0, ..self },
            depth => Self { depth: depth - 1, ..self },
        }
    }

    fn costing(self, more: u64) -> Self {
        Self { cost: self.cost.saturating_add(more), ..self }
    }
}

/// Whether a pattern can be evaluated within the bounds: those are of patterns that are known beforehand.
pub(super) fn has_bounded_patterns(expression: &IdedExpr) -> bool {
    let mut bounded = true;
    visit(expression, &mut |e| {
        if let Expr::Call(call) = &e.expr
            && call.func_name == "matches"
        {
            let pattern = match call.args.last().map(|a| &a.expr) {
                Some(Expr::Literal(LiteralValue::String(text))) => text.inner().to_owned(),
                _ => return bounded = false,
            };
            // One that is no pattern is an error of its own, each time.
            let built = regex::RegexBuilder::new(&pattern).size_limit(PATTERN_BYTES_MAX).build();
            bounded &= !matches!(built, Err(regex::Error::CompiledTooBig(_)));
        }
    });
    bounded
}

/// Calls a function with an expression and all in it.
pub(super) fn visit(expression: &IdedExpr, each: &mut dyn FnMut(&IdedExpr)) {
    each(expression);
    match &expression.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).for_each(|e| visit(e, each)),
        Expr::List(list) => list.elements.iter().for_each(|e| visit(e, each)),
        Expr::Map(map) => map.entries.iter().for_each(|e| visit_entry(e, each)),
        Expr::Struct(object) => object.entries.iter().for_each(|e| visit_entry(e, each)),
        Expr::Select(select) => visit(&select.operand, each),
        Expr::Comprehension(c) => {
            [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result]
                .into_iter()
                .for_each(|e| visit(e, each));
        }
    }
}

fn visit_entry(entry: &IdedEntryExpr, each: &mut dyn FnMut(&IdedExpr)) {
    match &entry.expr {
        EntryExpr::StructField(field) => visit(&field.value, each),
        EntryExpr::MapEntry(entry) => {
            visit(&entry.key, each);
            visit(&entry.value, each);
        }
    }
}

/// The bound for an expression with these variables.
pub(super) fn bound(expression: &IdedExpr, variables: &HashMap<&str, Value>) -> u64 {
    let mut scope: Vec<(&str, Bound)> =
        variables.iter().map(|(name, value)| (*name, of_value(value))).collect();
    estimate(expression, &mut scope).cost
}

fn of_value(value: &Value) -> Bound {
    let container = |inner: Bound| Bound {
        bytes: inner.bytes.saturating_add(16),
        items: inner.items.saturating_add(1),
        depth: inner.depth + 1,
        ..inner
    };
    match value {
        Value::String(text) => Bound::scalar(text.len() as u64),
        Value::Bytes(bytes) => Bound::scalar(bytes.len() as u64),
        Value::List(values) => {
            let inner = values.iter().map(of_value).fold(Bound::default(), Bound::and);
            container(Bound { items: inner.items.saturating_add(values.len() as u64), ..inner })
        }
        Value::Map(map) => {
            let entries = map.map.iter().map(|(key, value)| of_value(&Value::from(key)).and(of_value(value)));
            let inner = entries.fold(Bound::default(), Bound::and);
            container(Bound { items: inner.items.saturating_add(map.map.len() as u64), ..inner })
        }
        _ => Bound::scalar(16),
    }
}

fn estimate<'e>(expression: &'e IdedExpr, scope: &mut Vec<(&'e str, Bound)>) -> Bound {
    let bound = match &expression.expr {
        Expr::Unspecified => Bound::default(),
        Expr::Literal(LiteralValue::String(text)) => Bound::scalar(text.inner().len() as u64),
        Expr::Literal(LiteralValue::Bytes(bytes)) => Bound::scalar(bytes.inner().len() as u64),
        Expr::Literal(_) => Bound::scalar(16),
        Expr::Ident(name) => {
            let known = scope.iter().rev().find(|(known, _)| known == name);
            Bound { cost: 0, ..known.map_or(Bound::scalar(16), |(_, bound)| *bound) }
        }
        Expr::Select(select) => estimate(&select.operand, scope).inner(),
        Expr::List(list) => made(list.elements.iter().map(|e| estimate(e, scope)).collect()),
        Expr::Map(map) => made(map.entries.iter().map(|e| entry(e, scope)).collect()),
        Expr::Struct(object) => made(object.entries.iter().map(|e| entry(e, scope)).collect()),
        Expr::Call(call) => estimate_call(call, scope),
        Expr::Comprehension(comprehension) => estimate_loop(comprehension, scope),
    };
    bound.costing(NODE)
}

fn entry<'e>(entry: &'e IdedEntryExpr, scope: &mut Vec<(&'e str, Bound)>) -> Bound {
    match &entry.expr {
        EntryExpr::StructField(field) => estimate(&field.value, scope),
        EntryExpr::MapEntry(entry) => {
            let (key, value) = (estimate(&entry.key, scope), estimate(&entry.value, scope));
            // It is copied and hashed.
            let copied = key.bytes.saturating_mul(BYTE_MADE.saturating_add(BYTE_READ));
            key.and(value).costing(copied)
        }
    }
}

/// A list or a map of these.
fn made(elements: Vec<Bound>) -> Bound {
    let count = elements.len() as u64;
    let all = elements.into_iter().fold(Bound::default(), Bound::and);
    let bound = Bound {
        bytes: all.bytes.saturating_add(count.saturating_mul(16)),
        items: all.items.saturating_add(count),
        depth: all.depth.saturating_add(1),
        ..all
    };
    bound.costing(count.saturating_mul(ITEM_MADE))
}

fn estimate_call<'e>(call: &'e CallExpr, scope: &mut Vec<(&'e str, Bound)>) -> Bound {
    let operands: Vec<Bound> =
        call.target.as_deref().into_iter().chain(&call.args).map(|e| estimate(e, scope)).collect();
    let all = operands.iter().copied().fold(Bound::default(), Bound::and);
    let read = all.bytes.saturating_mul(BYTE_READ);
    let number = Bound { cost: all.cost, ..Bound::scalar(16) };
    match call.func_name.as_str() {
        operators::LOGICAL_AND
        | operators::LOGICAL_OR
        | operators::LOGICAL_NOT
        | operators::NOT_STRICTLY_FALSE
        | operators::NEGATE
        | operators::MULTIPLY
        | operators::DIVIDE
        | operators::MODULO
        | operators::SUBSTRACT => number,
        operators::CONDITIONAL => {
            let branches = operands.iter().skip(1).copied();
            let either = branches.fold(Bound::default(), |a, b| Bound {
                bytes: a.bytes.max(b.bytes),
                items: a.items.max(b.items),
                ..a.and(b)
            });
            Bound { cost: all.cost, ..either }
        }
        operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT => {
            let operand = operands.first().copied().unwrap_or_default();
            // A key is made of the index.
            let key = operands.get(1).map_or(0, |o| o.bytes);
            Bound { cost: all.cost, ..operand.inner() }.costing(key.saturating_mul(BYTE_MADE + BYTE_READ))
        }
        operators::ADD => {
            let sum = Bound { leaf: if all.depth == 0 { all.bytes } else { all.leaf }, ..all };
            let items = all.items.saturating_mul(ITEM_MADE);
            sum.costing(all.bytes.saturating_mul(BYTE_MADE).saturating_add(items))
        }
        operators::EQUALS
        | operators::NOT_EQUALS
        | operators::GREATER_EQUALS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::LESS
        | operators::IN
        | "size"
        | "contains"
        | "startsWith"
        | "endsWith" => number.costing(read),
        "matches" => {
            let text = operands.first().map_or(0, |o| o.bytes);
            number.costing(PATTERN.saturating_add(text.saturating_mul(BYTE_MATCHED)))
        }
        "string" | "bytes" | "type" | "dyn" | "int" | "uint" | "double" | "duration" | "timestamp"
        | "max" | "min" => {
            let bytes = all.bytes.saturating_add(64);
            let bound = Bound { bytes, leaf: bytes, ..all };
            bound.costing(bytes.saturating_mul(BYTE_MADE))
        }
        // What it does is not known here: each may repeat another.
        _ => {
            let product =
                operands.iter().fold(64_u64, |product, o| product.saturating_mul(o.bytes.saturating_add(1)));
            let bound = Bound { bytes: product, items: product, leaf: product, ..all };
            bound.costing(product.saturating_mul(BYTE_MADE))
        }
    }
}

fn estimate_loop<'e>(c: &'e ComprehensionExpr, scope: &mut Vec<(&'e str, Bound)>) -> Bound {
    let range = estimate(&c.iter_range, scope);
    let init = estimate(&c.accu_init, scope);
    let rounds = range.items;
    let depth = scope.len();
    scope.push((&c.iter_var, range.inner()));
    if let Some(second) = &c.iter_var2 {
        scope.push((second, range.inner()));
    }
    scope.push((&c.accu_var, init));
    let (condition, step) = (estimate(&c.loop_cond, scope), estimate(&c.loop_step, scope));
    let each = condition.cost.saturating_add(step.cost);
    // What a step adds, so many times; and the handles that are moved as it grows.
    let accumulated = Bound {
        bytes: init.bytes.saturating_add(step.bytes.saturating_mul(rounds)),
        items: init.items.saturating_add(step.items.saturating_mul(rounds)),
        leaf: init.leaf.max(step.leaf),
        depth: init.depth.max(step.depth),
        cost: 0,
    };
    scope.truncate(depth);
    scope.push((&c.accu_var, accumulated));
    let result = estimate(&c.result, scope);
    scope.truncate(depth);
    let moved = rounds.saturating_mul(rounds).saturating_mul(BYTE_MADE);
    result.costing(range.cost).costing(init.cost).costing(rounds.saturating_mul(each)).costing(moved)
}

#[cfg(test)]
mod tests {
    use cel::Program;

    use super::*;

    fn cost(source: &str, variables: &[(&'static str, Value)]) -> u64 {
        let program = Program::compile(source).unwrap();
        bound(program.expression(), &variables.iter().cloned().collect())
    }

    #[test]
    fn what_grows_costs_and_what_is_usual_does_not() {
        let text = |len: usize| Value::from("x".repeat(len));
        let zeros = |n: usize| vec!["0"; n].join(",");
        let limit = 200_000_000;
        let header = |name: &str| (cel::objects::Key::from(name), text(200));
        let headers = Value::Map(cel::objects::Map {
            map: std::collections::HashMap::from(["a", "b", "c", "d"].map(header)).into(),
        });
        for (source, variables) in [
            ("p == 'x' && p.startsWith('/a') || p.matches('^/api/[0-9]+$')", vec![("p", text(4000))]),
            ("h.exists(n, n.startsWith('x-') && h[n].matches('[a-z]+'))", vec![("h", headers)]),
            ("[1, 2, 3].map(x, x * 2)", vec![]),
        ] {
            let cost = cost(source, &variables);
            assert!(cost < limit, "{source}: {cost}");
        }
        let many = format!("[{}].map(x,[{}].map(y,p+p))", zeros(800), zeros(800));
        let slow = format!("[{}].all(x,!p.matches('(a|b)*c[a-z]{{50}}'))", zeros(300));
        let keys = format!("[{}].all(x, size([{}])==1)", zeros(100), vec!["{p:1}"; 500].join(","));
        let sizes = format!("[{}].all(x, [{}].all(y, size(p) > 1))", zeros(100), zeros(100));
        for source in [many.as_str(), &slow, &keys, &sizes] {
            assert!(cost(source, &[("p", text(64 << 10))]) > limit, "{source}");
        }
    }

    #[test]
    fn patterns_must_be_known_and_small() {
        let bounded = |source: &str| has_bounded_patterns(Program::compile(source).unwrap().expression());
        assert!(bounded("p.matches('^[a-z]{50}$') && [1].all(x, p.matches('a'))"));
        assert!(!bounded("p.matches(q)"));
        assert!(!bounded("[1].all(x, p.matches('(a{1000}){1000}'))"));
    }
}
