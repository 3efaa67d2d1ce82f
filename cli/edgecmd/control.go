package edgecmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/selvedge-io/selvedge/cli/show"
)

// control talks to a running edge over its Unix socket.
type control struct {
	socket string
	http   *http.Client
}

func dial(socket string) *control {
	return &control{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

func (c *control) send(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://edge"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the edge: %w", err)
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no edge is running with this data directory (%s): start one with "+
			"selvedge edge run, or pass its --data", c.socket)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("no permission for %s: run this as the user that runs the edge", c.socket)
	case err != nil:
		return nil, fmt.Errorf("ask the edge: %w", err)
	case resp.StatusCode < 300:
		return resp, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var said struct{ Message string }
	if json.Unmarshal(body, &said) != nil || said.Message == "" {
		said.Message = strings.TrimSpace(string(body))
	}
	return nil, fmt.Errorf("the edge refused: %s", said.Message)
}

func (c *control) get(ctx context.Context, path string) ([]byte, error) {
	resp, err := c.send(ctx, http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read the edge's answer: %w", err)
	}
	return raw, nil
}

// moduleState is one line of the edge's module list.
type moduleState struct {
	Name     string    `json:"name"`
	Status   string    `json:"status"`
	Detail   string    `json:"statusDescription"`
	Restarts int       `json:"restartCount"`
	Started  time.Time `json:"lastStartTimeUtc"`
	Source   string    `json:"source"`
}

func (c *control) modules(ctx context.Context) ([]moduleState, error) {
	raw, err := c.get(ctx, "/modules")
	if err != nil {
		return nil, err
	}
	var all []moduleState
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("read the edge's answer: %w", err)
	}
	return all, nil
}

func moduleRows(raw []byte) (*show.Rows, error) {
	var all []moduleState
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("read the edge's answer: %w", err)
	}
	rows := &show.Rows{Header: []string{"NAME", "STATUS", "DESCRIPTION", "RESTARTS", "STARTED", "SOURCE"}}
	for _, m := range all {
		started := ""
		if m.Started.Year() > 1 {
			started = m.Started.Local().Format("2006-01-02 15:04:05")
		}
		rows.Add(m.Name, m.Status, m.Detail, strconv.Itoa(m.Restarts), started, m.Source)
	}
	return rows, nil
}

func (c *control) logs(ctx context.Context, out io.Writer, module string, follow bool, tail int, since string) error {
	q := url.Values{}
	if follow {
		q.Set("follow", "1")
	}
	if tail > 0 {
		q.Set("tail", strconv.Itoa(tail))
	}
	if since != "" {
		q.Set("since", since)
	}
	resp, err := c.send(ctx, http.MethodGet, "/modules/"+url.PathEscape(module)+"/logs?"+q.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(out, resp.Body); err != nil && ctx.Err() == nil {
		return fmt.Errorf("the log broke off: %w", err)
	}
	return nil
}

func (c *control) restart(ctx context.Context, module string) error {
	resp, err := c.send(ctx, http.MethodPost, "/modules/"+url.PathEscape(module)+"/restart")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
