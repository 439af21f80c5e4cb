//! Targets of requests, as the chain and the upstream see them.

use wasmgate_proxy::fuzzing::normalise;

/// What is normal stays so, and has neither dot segments nor backslashes.
pub fn path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Most inputs would be no path otherwise.
    for target in [text.to_string(), format!("/{text}")] {
        let Some(normal) = normalise(&target) else { continue };
        assert_eq!(normalise(&normal).as_ref(), Some(&normal), "{target:?} has two normal forms");
        let (path, query) = normal.split_at(normal.find(['?', '#']).unwrap_or(normal.len()));
        assert!(path.starts_with('/'), "{target:?} became {normal:?}");
        assert!(!path.contains('\\'), "{target:?} became {normal:?}");
        let decoded = path.to_ascii_lowercase().replace("%2e", ".");
        assert!(!decoded.split('/').any(|s| s == "." || s == ".."), "{target:?} became {normal:?}");
        assert!(target.ends_with(query), "{target:?} became {normal:?}: the query is not ours");
    }
}
