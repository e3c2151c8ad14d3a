package setup

// Merge and Undo are what is done to the text of daemon.json.
var (
	Merge = merge
	Undo  = undo
)
