package attach

// Direct makes o that of a kernel without sk_lookup.
func Direct(o Options) Options {
	o.direct = true
	return o
}
