package server

import (
	"io"
	"net/http"
	"time"
)

// timedBody is a request's body under a read deadline, which it lifts at its end.
type timedBody struct {
	io.ReadCloser
	conn *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		// The connection is that of an open request, so this cannot fail.
		_ = b.conn.SetReadDeadline(time.Time{})
	}
	return n, err
}
