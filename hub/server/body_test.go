package server

import (
	"io"
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
		limitBody(w, r, limit)
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
