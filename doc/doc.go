// Package doc is the part of the documentation that goes along with the program: taskrole.yaml(5) is made of it.
package doc

import _ "embed" // for the texts

// Config is config.md, which has every key of the configuration.
//
//go:embed config.md
var Config string
