package sdk

import (
	"os/exec"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/test/rig"
)

// python is Debian's, for which its package of Qpid Proton is made.
const python = "/usr/bin/python3"

// TestQpid holds the hub to Qpid Proton, a client in C that knows nothing of Azure.
func TestQpid(t *testing.T) {
	if out, err := exec.Command(python, "-c", "import proton").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s; install python3-qpid-proton with scripts/setup-test.sh", err, out)
	}
	h := startHub(t)
	for _, sasl := range []string{"none", "anonymous"} {
		t.Run(sasl, func(t *testing.T) {
			id := h.Device(t, "qpid-"+sasl)
			events := h.Events(t, "--device", id.Device)
			for _, text := range []string{"first", "second"} {
				h.Must(t, "message", "send", id.Device, text, "--property", "site=north south")
			}
			p := rig.Start(t, python, []string{"URL=amqps://localhost:5671", "CA=" + h.CA, "HOST=" + id.Host,
				"DEVICE=" + id.Device, "KEY=" + id.Key, "SASL=" + sasl}, "qpid.py")
			select {
			case <-p.Ended():
			case <-time.After(rig.Patience):
				t.Fatal("qpid.py does not end")
			}
			if p.Code() != 0 {
				t.Fatalf("qpid.py: exit code %d\n%s", p.Code(), p.Err.String())
			}
			// What it gives back comes again, with a higher count.
			if !p.Out.Contains("received first north south 0\n", "received first north south 1\n", "received second north south 0\n") {
				t.Errorf("it printed\n%s", p.Out.String())
			}
			for _, want := range []string{"one", "two", "three"} {
				select {
				case e := <-events:
					if string(e.Body) != `"`+want+`"` || e.Properties["from"] != "proton" || e.System["messageId"] != want {
						t.Errorf("event %s, %v, %v; want %s", e.Body, e.Properties, e.System, want)
					}
				case <-time.After(rig.Patience):
					t.Fatalf("%s did not arrive", want)
				}
			}
			rig.Eventually(t, "no message waits", func() bool {
				var shown struct{ CloudToDeviceMessageCount int }
				h.Run(t, "device", "show", id.Device, "--output", "json").JSON(t, &shown)
				return shown.CloudToDeviceMessageCount == 0
			})
		})
	}
}
