package cli

// PsText is the answer of ps for people.
var PsText = psText

// Head is as much of a text as fits into so many lines.
var Head = head
