package problem

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
)

func TestJSON(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		text string
	}{
		{fault.Wrap(errors.New("secret cause"), fault.Unauthorized, "not you"), 401003, "not you"},
		{errors.New("disk on fire"), 500001, fault.TextOf(errors.New(""))},
	} {
		body, tracking := JSON(c.err)
		var got map[string]any
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		if got["errorCode"] != float64(c.code) || got["message"] != c.text || got["trackingId"] != tracking || len(got) != 4 {
			t.Errorf("%v is told as %s", c.err, body)
		}
		if _, err := time.Parse(message.TimeFormat, got["timestampUtc"].(string)); err != nil {
			t.Error(err)
		}
		if len(tracking) < 40 || !strings.Contains(tracking, "-G:0-TimeStamp:") || strings.Contains(string(body), "secret") {
			t.Errorf("tracking id %q of %s", tracking, body)
		}
	}
}
