"""From a store and random numbers to a composite: what every transform shares."""
