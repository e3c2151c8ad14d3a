package config

// Endpoint, Nearest and Distance are for the tests of what Parse uses them for.
var (
	Endpoint = endpoint
	Nearest  = nearest
	Distance = distance
)
