package server

import (
	"io"
	"net/http"
	"time"
)

// limitBody bounds the time that a body may take to come. The server's own limit would
// go on counting while a call waits for its device.
func limitBody(w http.ResponseWriter, r *http.Request, limit time.Duration) {
	if r.Body == nil || r.Body == http.NoBody {
		return
	}
	conn := http.NewResponseController(w)
	if conn.SetReadDeadline(time.Now().Add(limit)) == nil {
		r.Body = &timedBody{ReadCloser: r.Body, conn: conn}
	}
}

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
