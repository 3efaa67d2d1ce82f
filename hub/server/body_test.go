package server

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestBodyTimeLimit(t *testing.T) {
	const limit = 50 * time.Millisecond
	read := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = limitBody(w, r, limit)
		_, err := io.ReadAll(r.Body)
		read <- err
		if err != nil {
			return
		}
		select { // a call that waits for its device must outlive the limit
		case <-r.Context().Done():
			t.Error("the request was given up while it was answered")
		case <-time.After(4 * limit):
		}
	}))
	defer srv.Close()
	resp, err := srv.Client().Post(srv.URL, "text/plain", strings.NewReader("all of it"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := next(t, "the body", read); err != nil {
		t.Error(err)
	}
	slow, never := io.Pipe()
	defer never.Close()
	go never.Write([]byte("the beginning"))
	if resp, err := srv.Client().Post(srv.URL, "text/plain", slow); err == nil {
		resp.Body.Close()
	}
	if err := next(t, "the end of the wait", read); err == nil {
		t.Error("a body that never ends was waited for")
	}
}

// Who is refused before the body was looked at hears that at once, and holds nothing.
func TestRefusalDoesNotWaitForTheBody(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = limitBody(w, r, time.Minute)
		http.Error(w, "no", http.StatusUnauthorized)
	}))
	defer srv.Close()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "PUT /devices/d HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 401 ") {
		t.Errorf("%q, %v", answer, err)
	}
}
