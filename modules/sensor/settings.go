package sensor

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// settings come from the environment.
type settings struct {
	delay                    time.Duration
	count                    int
	tempMin, tempMax         float64
	pressureMin, pressureMax float64
	ambient                  float64
}

func readSettings(env func(string) string) (settings, error) {
	s := settings{delay: 5 * time.Second, count: 500, tempMin: 21, tempMax: 100, pressureMin: 1, pressureMax: 10, ambient: 21}
	if text := env("MessageDelay"); text != "" {
		d, err := parseTimeSpan(text)
		if err != nil {
			return s, fmt.Errorf("MessageDelay: %w", err)
		}
		s.delay = d
	}
	if text := env("MessageCount"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < -1 {
			return s, fmt.Errorf("MessageCount is %q, must be a number, or -1 for no end", text)
		}
		s.count = n
	}
	for name, to := range map[string]*float64{
		"machineTempMin": &s.tempMin, "machineTempMax": &s.tempMax,
		"machinePressureMin": &s.pressureMin, "machinePressureMax": &s.pressureMax, "ambientTemp": &s.ambient,
	} {
		if text := env(name); text != "" {
			f, err := strconv.ParseFloat(text, 64)
			if err != nil || math.IsInf(f, 0) || math.IsNaN(f) || math.Abs(f) > 1e9 {
				return s, fmt.Errorf("%s is %q, must be a number", name, text)
			}
			*to = f
		}
	}
	if s.tempMin >= s.tempMax {
		return s, fmt.Errorf("machineTempMin %v must be below machineTempMax %v", s.tempMin, s.tempMax)
	}
	return s, nil
}

// parseTimeSpan reads .NET's form of durations, [days.]hh:mm[:ss[.fraction]]. A lone
// number, which would be days to .NET, is refused.
func parseTimeSpan(text string) (time.Duration, error) {
	wrong := fmt.Errorf("%q is no duration, write hh:mm:ss", text)
	parts := strings.Split(text, ":")
	if len(parts) != 2 && len(parts) != 3 {
		return 0, wrong
	}
	days := uint64(0)
	if d, rest, ok := strings.Cut(parts[0], "."); ok {
		n, err := strconv.ParseUint(d, 10, 16)
		if err != nil {
			return 0, wrong
		}
		days, parts[0] = n, rest
	}
	hours, err1 := strconv.ParseUint(parts[0], 10, 8)
	minutes, err2 := strconv.ParseUint(parts[1], 10, 8)
	seconds := 0.0
	var err3 error
	if len(parts) == 3 {
		if strings.Trim(parts[2], "0123456789.") != "" {
			return 0, wrong
		}
		seconds, err3 = strconv.ParseFloat(parts[2], 64)
	}
	if err1 != nil || err2 != nil || err3 != nil || hours > 23 || minutes > 59 || seconds >= 60 {
		return 0, wrong
	}
	d := time.Duration(days*24+hours)*time.Hour + time.Duration(minutes)*time.Minute + time.Duration(math.Round(seconds*1e9))
	if d <= 0 {
		return 0, fmt.Errorf("%q is not above zero", text)
	}
	return d, nil
}
