package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// logTo is standard error until a background supervisor has told its caller that it is ready.
var logTo io.Writer = os.Stderr

func say(format string, args ...any) { fmt.Fprintf(logTo, "[cluster] "+format+"\n", args...) }

func took(since time.Time) string {
	d := time.Since(since)
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
}

// progress shows how far a build is: a bar that is drawn again on a terminal, a line every half minute elsewhere.
type progress struct {
	what        string
	typical     time.Duration
	began       time.Time
	total, done int
	terminal    bool
	mu          sync.Mutex
	stop        chan struct{}
	ended       sync.Once
}

func newProgress(what string, typical time.Duration) *progress {
	info, err := os.Stderr.Stat()
	p := &progress{what: what, typical: typical, began: time.Now(), stop: make(chan struct{})}
	p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	say("building %s (the first time: about %s on two cores)", what, roughly(typical))
	every := 30 * time.Second
	if p.terminal {
		every = time.Second
		p.draw()
	}
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				p.draw()
			}
		}
	}()
	return p
}

func (p *progress) expect() {
	p.mu.Lock()
	p.total++
	p.mu.Unlock()
}

func (p *progress) step() {
	p.mu.Lock()
	p.done++
	p.mu.Unlock()
}

// line is the bar, how much of the packages is compiled, the time so far and the time that it takes where nothing is there.
func (p *progress) line() string {
	const width = 30
	times := fmt.Sprintf("%s of about %s", took(p.began), roughly(p.typical))
	total := max(p.total, p.done)
	if p.done == 0 || total == 0 {
		return fmt.Sprintf("  [%s]   0 %%  loading sources, %s", strings.Repeat(".", width), times)
	}
	full := width * p.done / total
	bar := strings.Repeat("#", full) + strings.Repeat(".", width-full)
	if p.done == total {
		return fmt.Sprintf("  [%s]  99 %%  linking, %s", bar, times)
	}
	return fmt.Sprintf("  [%s] %3d %%  %d of %d packages, %s", bar, min(99, 100*p.done/total), p.done, total, times)
}

func (p *progress) draw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprintf(os.Stderr, "\r%s\x1b[K", p.line())
	} else {
		fmt.Fprintln(os.Stderr, p.line())
	}
}

// end takes the bar away.
func (p *progress) end() {
	p.ended.Do(func() {
		close(p.stop)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.terminal {
			fmt.Fprint(os.Stderr, "\r\x1b[K")
		}
	})
}

// cost sums up what the first build of a batch is known to take.
func cost(batch []component) time.Duration {
	var sum time.Duration
	for _, c := range batch {
		d, _ := time.ParseDuration(strings.NewReplacer(" min", "m", " s", "s", " ", "").Replace(c.cost))
		sum += d
	}
	return sum
}

func roughly(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
	return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
}
