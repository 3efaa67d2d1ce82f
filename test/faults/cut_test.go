package faults

import (
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/test/rig"
)

// cutFor is how long the link is gone: SELVEDGE_CUT, 10s unless given.
func cutFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("SELVEDGE_CUT")
	if text == "" {
		return 10 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("SELVEDGE_CUT: %v", err)
	}
	return d
}

// TestCutLink takes the link to the hub away under load, the way networks do it: no
// connection is closed, packets are just gone. All arrives afterwards.
func TestCutLink(t *testing.T) {
	for _, protocol := range []string{"Amqp", "Mqtt"} {
		t.Run(protocol, func(t *testing.T) { testCutLink(t, protocol) })
	}
}

func testCutLink(t *testing.T, protocol string) {
	h := rig.StartHub(t, rig.HubOptions{})
	h.Device(t, "gateway", "--edge")
	h.Deploy(t, "gateway", `{}`, `{"all": "FROM /messages/* INTO $upstream"}`)
	var senders []*sender
	for i := range 3 {
		senders = append(senders, &sender{id: h.Module(t, "gateway", fmt.Sprintf("module-%d", i)), every: 5 * time.Millisecond})
	}
	links := []*link{newLink(t, h.AMQP), newLink(t, h.MQTT), newLink(t, h.HTTPS)}
	e := rig.StartEdge(t, h, rig.EdgeOptions{
		Device: "gateway", HubAMQP: links[0].address(), HubMQTT: links[1].address(), HubHTTPS: links[2].address(),
		TOML: fmt.Sprintf("[agent.env]\nUpstreamProtocol = %q\n", protocol),
	})
	for _, s := range senders {
		s.id = e.At(s.id)
	}
	wait := runAll(t, senders)
	progress(t, senders, 200)

	for _, l := range links {
		l.cut()
	}
	before := senders[0].acked.Load()
	for end := time.After(cutFor(t)); ; {
		progress(t, senders, 20) // the gateway takes messages all the while
		select {
		case <-end:
		default:
			continue
		}
		break
	}
	if senders[0].broke.Load() > 0 {
		t.Errorf("a module's connection broke while the link to the hub was cut")
	}
	t.Logf("the link was cut for %v and %d messages of each module", cutFor(t), senders[0].acked.Load()-before)
	for _, l := range links {
		l.mend()
	}
	progress(t, senders, 100)
	wait()
	audit(t, h, senders, 3*rig.Patience)
}

// link is a way to the hub that can be cut: what is under way then stops where it is.
// Mending lets half of the connections go on, as after a short outage, and resets the
// others, as routers do that have forgotten them.
type link struct {
	to     string
	listen net.Listener

	mu    sync.Mutex
	whole chan struct{} // closed while the link is whole
	conns []net.Conn
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{to: to, listen: l, whole: make(chan struct{})}
	close(k.whole)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			all.Go(func() { k.carry(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		k.mend()
		k.mu.Lock()
		for _, c := range k.conns {
			c.Close()
		}
		k.mu.Unlock()
		all.Wait()
	})
	return k
}

func (k *link) address() string { return k.listen.Addr().String() }

func (k *link) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.whole = make(chan struct{})
}

func (k *link) mend() {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.whole:
		return
	default:
	}
	for i, c := range k.conns {
		if i%2 == 0 {
			c.Close()
		}
	}
	close(k.whole)
}

// pass waits while the link is cut.
func (k *link) pass() {
	k.mu.Lock()
	whole := k.whole
	k.mu.Unlock()
	<-whole
}

// carry moves bytes both ways until either side ends.
func (k *link) carry(c net.Conn) {
	defer c.Close()
	k.pass()
	up, err := net.Dial("tcp", k.to)
	if err != nil {
		return // the hub is down, and the gateway sees a connection that ends
	}
	defer up.Close()
	k.mu.Lock()
	k.conns = append(k.conns, c)
	k.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { k.copy(up, c) })
	both.Go(func() { k.copy(c, up) })
	both.Wait()
}

func (k *link) copy(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		k.pass()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
