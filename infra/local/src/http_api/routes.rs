//! Which route takes a request: the most specific one, as API Gateway chooses it.
//!
//! A literal segment beats a parameter, a parameter beats the greedy `{proxy+}`, from left to right; of two routes
//! with the same path the one with the method beats `ANY`; `$default` takes what is left.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use http::Method;
use percent_encoding::percent_decode_str;

use crate::template::HttpRoute;

/// The routes of an API, the most specific first.
#[derive(Debug)]
pub(super) struct Routes {
    ordered: Vec<Pattern>,
    default: Option<HttpRoute>,
}

#[derive(Debug)]
struct Pattern {
    /// `None` is `ANY`.
    method: Option<Method>,
    segments: Vec<Segment>,
    route: HttpRoute,
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter(String),
    Greedy(String),
}

/// The route that takes a request, and what its path gives to the parameters.
#[derive(Debug)]
pub(super) struct Match<'r> {
    pub(super) route: &'r HttpRoute,
    pub(super) parameters: BTreeMap<&'r str, String>,
}

impl Routes {
    pub(super) fn new(routes: Vec<HttpRoute>) -> Result<Self> {
        let (mut ordered, mut default) = (Vec::new(), None);
        for route in routes {
            if route.key == "$default" {
                ensure!(default.is_none(), "two events make the route `$default`");
                default = Some(route);
            } else {
                ordered.push(Pattern::parse(route)?);
            }
        }
        ordered.sort_by(Pattern::more_specific_first);
        for (place, route) in ordered.iter().enumerate() {
            if let Some(twin) = ordered[..place].iter().find(|other| route.takes_the_same_as(other)) {
                bail!("the routes `{}` and `{}` take the same requests", twin.route.key, route.route.key);
            }
        }
        Ok(Self { ordered, default })
    }

    pub(super) fn find(&self, method: &Method, path: &str) -> Option<Match<'_>> {
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        let found = self.ordered.iter().find_map(|pattern| {
            let takes_method = pattern.method.as_ref().is_none_or(|own| own == method);
            let parameters = takes_method.then(|| pattern.parameters(&segments)).flatten()?;
            Some(Match { route: &pattern.route, parameters })
        });
        let default = || self.default.as_ref().map(|route| Match { route, parameters: BTreeMap::new() });
        found.or_else(default)
    }
}

impl Pattern {
    fn parse(route: HttpRoute) -> Result<Self> {
        let Some((method, path)) = route.key.split_once(" /") else { bail!("`{}` is no route", route.key) };
        let method = (method != "ANY").then(|| method.parse()).transpose()?;
        let segments: Vec<Segment> = path.split('/').map(Segment::parse).collect();
        let greedy = segments.iter().position(|segment| matches!(segment, Segment::Greedy(_)));
        let last = greedy.is_none_or(|place| place + 1 == segments.len());
        ensure!(last, "`{}`: a greedy parameter takes all that follows", route.key);
        Ok(Self { method, segments, route })
    }

    /// What the parameters are in this path, if it has the form of this route.
    fn parameters(&self, path: &[&str]) -> Option<BTreeMap<&str, String>> {
        let mut parameters = BTreeMap::new();
        for (place, segment) in self.segments.iter().enumerate() {
            let given = path.get(place)?;
            match segment {
                Segment::Literal(literal) if decoded(given) == *literal => {}
                Segment::Literal(_) => return None,
                Segment::Parameter(_) if given.is_empty() => return None,
                Segment::Parameter(name) => drop(parameters.insert(name.as_str(), decoded(given))),
                Segment::Greedy(name) => {
                    let rest = path[place..].join("/");
                    if rest.is_empty() {
                        return None;
                    }
                    parameters.insert(name.as_str(), decoded(&rest));
                    return Some(parameters);
                }
            }
        }
        (path.len() == self.segments.len()).then_some(parameters)
    }

    fn more_specific_first(&self, other: &Self) -> Ordering {
        let kinds = |pattern: &Self| pattern.segments.iter().map(Segment::rank).collect::<Vec<_>>();
        let by_path = kinds(self).cmp(&kinds(other));
        by_path.then(self.method.is_none().cmp(&other.method.is_none()))
    }

    fn takes_the_same_as(&self, other: &Self) -> bool {
        let same = |(a, b): (&Segment, &Segment)| match (a, b) {
            (Segment::Literal(a), Segment::Literal(b)) => a == b,
            (a, b) => a.rank() == b.rank(),
        };
        let pairs = self.segments.iter().zip(&other.segments);
        self.method == other.method
            && self.segments.len() == other.segments.len()
            && pairs.into_iter().all(same)
    }
}

impl Segment {
    fn parse(text: &str) -> Self {
        let name = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        match name.map(|name| (name, name.strip_suffix('+'))) {
            None => Self::Literal(text.to_owned()),
            Some((_, Some(greedy))) => Self::Greedy(greedy.to_owned()),
            Some((name, None)) => Self::Parameter(name.to_owned()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Literal(_) => 0,
            Self::Parameter(_) => 1,
            Self::Greedy(_) => 2,
        }
    }
}

fn decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn route(key: &str) -> HttpRoute {
        HttpRoute { key: key.into(), function: "f".into(), integration_timeout: Duration::from_secs(30) }
    }

    fn routes(keys: &[&str]) -> Routes {
        Routes::new(keys.iter().map(|key| route(key)).collect()).expect("good routes")
    }

    /// `expected`: the route key and its parameters, or none.
    fn check(keys: &[&str], request: &str, expected: Option<(&str, &[(&str, &str)])>) {
        // The order in the template decides nothing.
        for keys in [keys.to_vec(), keys.iter().rev().copied().collect()] {
            let (method, path) = request.split_once(' ').expect("method and path");
            let routes = routes(&keys);
            let found = routes.find(&method.parse().expect("a method"), path);
            let found = found.as_ref().map(|found| {
                let parameters = found.parameters.iter().map(|(name, value)| (*name, value.as_str()));
                (found.route.key.as_str(), parameters.collect::<Vec<_>>())
            });
            assert_eq!(found, expected.map(|(key, parameters)| (key, parameters.to_vec())), "{request}");
        }
    }

    const PETS: [&str; 5] =
        ["GET /pets/dog/1", "GET /pets/dog/{id}", "GET /pets/{proxy+}", "ANY /{proxy+}", "$default"];

    #[test]
    fn the_example_of_the_developer_guide_is_followed() {
        check(&PETS, "GET /pets/dog/1", Some(("GET /pets/dog/1", &[])));
        check(&PETS, "GET /pets/dog/2", Some(("GET /pets/dog/{id}", &[("id", "2")])));
        check(&PETS, "GET /pets/cat/1", Some(("GET /pets/{proxy+}", &[("proxy", "cat/1")])));
        check(&PETS, "POST /test/5", Some(("ANY /{proxy+}", &[("proxy", "test/5")])));
        check(&PETS, "GET /", Some(("$default", &[])));
    }

    #[test]
    fn a_method_beats_any_and_an_exact_path_beats_both() {
        let keys = ["ANY /rooms/{room}", "GET /rooms/{room}", "ANY /rooms/new"];
        check(&keys, "GET /rooms/x", Some(("GET /rooms/{room}", &[("room", "x")])));
        check(&keys, "PUT /rooms/x", Some(("ANY /rooms/{room}", &[("room", "x")])));
        check(&keys, "GET /rooms/new", Some(("ANY /rooms/new", &[])));
    }

    #[test]
    fn a_literal_further_left_wins() {
        let keys = ["GET /{a}/x", "GET /y/{b}"];
        check(&keys, "GET /y/x", Some(("GET /y/{b}", &[("b", "x")])));
        check(&keys, "GET /z/x", Some(("GET /{a}/x", &[("a", "z")])));
    }

    #[test]
    fn nothing_is_taken_that_has_no_route() {
        let keys = ["GET /rooms", "GET /rooms/{room}/messages", "GET /assets/{file+}"];
        for request in [
            "POST /rooms",
            "HEAD /rooms",
            "GET /rooms/",
            "GET /rooms//messages",
            "GET /rooms/a/b",
            "GET /",
            "GET /assets/",
        ] {
            check(&keys, request, None);
        }
    }

    #[test]
    fn parameters_are_decoded_and_a_decoded_slash_parts_nothing() {
        let keys = ["GET /rooms/{room}"];
        check(&keys, "GET /rooms/caf%C3%A9%20x", Some(("GET /rooms/{room}", &[("room", "café x")])));
        check(&keys, "GET /rooms/a%2Fb", Some(("GET /rooms/{room}", &[("room", "a/b")])));
        check(&keys, "GET /r%6Foms/a", Some(("GET /rooms/{room}", &[("room", "a")])));
    }

    #[test]
    fn the_root_can_be_a_route() {
        check(&["GET /"], "GET /", Some(("GET /", &[])));
        check(&["GET /"], "GET /x", None);
    }

    #[test]
    fn routes_that_contradict_each_other_are_refused() {
        for keys in [["GET /a/{x}", "GET /a/{y}"], ["$default", "$default"], ["GET /{a+}", "GET /{b+}"]] {
            assert!(Routes::new(keys.into_iter().map(route).collect()).is_err(), "{keys:?}");
        }
        let apart = ["GET /a/{x}", "GET /b/{x}", "GET /a/{y}"];
        assert!(Routes::new(apart.into_iter().map(route).collect()).is_err());
        assert!(Routes::new(vec![route("GET /{a+}/b")]).is_err());
        routes(&["GET /a/{x}", "GET /b/{x}", "POST /a/{x}", "ANY /a/{x}"]);
    }
}
