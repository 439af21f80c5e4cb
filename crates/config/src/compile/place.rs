//! Where endpoints are: those that are nearer get the requests for as long as enough of them are healthy.

/// `region/zone/subzone`, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    region: Option<String>,
    zone: Option<String>,
    subzone: Option<String>,
}

impl Place {
    /// Reads `region/zone/subzone`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut parts = text.split('/').map(|part| Some(part.to_owned()).filter(|p| !p.is_empty()));
        let mut next = || parts.next().flatten();
        Self { region: next(), zone: next(), subzone: next() }
    }

    /// Of an EndpointSlice, which knows nothing but the zone.
    pub(crate) fn of_zone(zone: &str) -> Self {
        Self { zone: Some(zone.to_owned()).filter(|z| !z.is_empty()), ..Self::default() }
    }

    pub(crate) fn is_known(&self) -> bool {
        self.region.is_some() || self.zone.is_some()
    }

    /// How far an endpoint is, from 0 (the same subzone) on. `failover`: regions, and where their traffic goes.
    pub(crate) fn distance(&self, endpoint: &Self, failover: &[(String, String)]) -> u32 {
        // What is not known of either does not tell them apart.
        let differs = |own: &Option<String>, other: &Option<String>| match (own, other) {
            (Some(own), Some(other)) => own != other,
            _ => false,
        };
        if !endpoint.is_known() || differs(&self.region, &endpoint.region) {
            let is_next = failover
                .iter()
                .any(|(from, to)| self.region.as_ref() == Some(from) && endpoint.region.as_ref() == Some(to));
            return if is_next || failover.is_empty() { 3 } else { 4 };
        }
        match (differs(&self.zone, &endpoint.zone), differs(&self.subzone, &endpoint.subzone)) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_as_istio_counts_them() {
        let own = Place::parse("eu/a/1");
        let failover = [("eu".to_owned(), "us".to_owned())];
        for (place, without, with) in [
            ("eu/a/1", 0, 0),
            ("eu/a/2", 1, 1),
            ("eu/a", 0, 0),
            ("eu/b/1", 2, 2),
            ("us/a/1", 3, 3),
            ("asia/a/1", 3, 4),
            ("", 3, 4),
        ] {
            let place = Place::parse(place);
            assert_eq!(own.distance(&place, &[]), without, "{place:?}");
            assert_eq!(own.distance(&place, &failover), with, "{place:?}");
        }
        assert_eq!(own.distance(&Place::of_zone("a"), &[]), 0);
        assert_eq!(own.distance(&Place::of_zone("b"), &[]), 2);
    }
}
