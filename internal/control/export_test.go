package control

// DecodeRequest and DecodeReply are what the fuzz tests feed.
func DecodeRequest(b []byte) (fds int, attach *AttachRequest, err error) {
	r, err := decodeRequest(b)
	return r.fds(), r.Attach, err
}

// DecodeReply is decodeReply without its private type.
func DecodeReply(b []byte) error {
	_, err := decodeReply(b)
	return err
}

// MaxConns is how many connections are served at once.
const MaxConns = maxConns
