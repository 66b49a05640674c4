package doctor

// ranges proposes free ranges where a network's range clashes with something.
func (f Facts) ranges() (c Check, any bool) { return c, false }
