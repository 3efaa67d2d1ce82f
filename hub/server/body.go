package server

import (
	"io"
	"net/http"
	"time"
)

// limitBody gives r with a bound on the time that its body may take to come. The
// server's own limit would go on counting while a call waits for its device. It is
// another request, since the server looks at its own body to see whether it is worth
// reading to the end.
func limitBody(w http.ResponseWriter, r *http.Request, limit time.Duration) *http.Request {
	if r.Body == nil || r.Body == http.NoBody {
		return r
	}
	conn := http.NewResponseController(w)
	if conn.SetReadDeadline(time.Now().Add(limit)) != nil {
		return r
	}
	timed := r.WithContext(r.Context())
	timed.Body = &timedBody{ReadCloser: r.Body, conn: conn}
	return timed
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
