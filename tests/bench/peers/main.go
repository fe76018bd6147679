// peers measures handoffs of two locks that people use otherwise, in the cluster that KUBECONFIG names and its etcd. It prints one JSON object a line:
// {"what": ..., "waiting": ..., "p50": milliseconds, "p99": milliseconds, "requests": requests a handoff}.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"time"
)

type result struct {
	What     string  `json:"what"`
	Waiting  int     `json:"waiting"`
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
	Requests float64 `json:"requests"`
}

// What a lock must be able to do to be measured: each of those who wait calls hold, which returns when it has the lock, and then release.
type holder interface {
	hold(context.Context) error
	release() error
}

// Measures handoffs among these holders, each of which asks again as soon as it has released: from the call of release to the return of the next one's
// hold. All others are in line by then: inLine waits until so many are, with whoever holds.
func measure(holders []holder, handoffs int, inLine func(int) error) ([]time.Duration, error) {
	held, failed := make(chan holder, len(holders)), make(chan error, len(holders))
	waiting, cancel := context.WithCancel(context.Background())
	defer cancel()
	var asking sync.WaitGroup
	ask := func(h holder) {
		asking.Go(func() {
			if err := h.hold(waiting); err != nil {
				failed <- err
				return
			}
			held <- h
		})
	}
	for _, h := range holders {
		ask(h)
	}
	next := func() (holder, error) {
		select {
		case h := <-held:
			return h, nil
		case err := <-failed:
			return nil, err
		case <-time.After(time.Minute):
			return nil, fmt.Errorf("nobody was let in for a minute")
		}
	}
	settle := func() error {
		err := inLine(len(holders))
		// Whoever has come last is about to set its watch. One that is late by a revision is brought up to date by etcd ten times a second only.
		time.Sleep(20 * time.Millisecond)
		return err
	}
	now, err := next()
	if err != nil {
		return nil, err
	}
	if err := settle(); err != nil {
		return nil, err
	}
	var times []time.Duration
	for range handoffs {
		began := time.Now()
		released := make(chan error, 1)
		go func() { released <- now.release() }()
		then, err := next()
		if err != nil {
			return nil, err
		}
		times = append(times, time.Since(began))
		if err := <-released; err != nil {
			return nil, err
		}
		ask(now)
		now = then
		if err := settle(); err != nil {
			return nil, err
		}
	}
	// Nobody waits for the next measurement's lock.
	cancel()
	asking.Wait()
	close(held)
	for h := range held {
		if err := h.release(); err != nil {
			return nil, err
		}
	}
	return times, now.release()
}

// The smallest that this part of them does not exceed, in milliseconds.
func quantile(times []time.Duration, part float64) float64 {
	sorted := slices.Sorted(slices.Values(times))
	return float64(sorted[max(0, int(math.Ceil(part*float64(len(sorted))))-1)].Microseconds()) / 1000
}

func main() {
	endpoint := flag.String("etcd", "http://127.0.0.1:2379", "the cluster's etcd")
	namespace := flag.String("namespace", "default", "where the ConfigMap of the polling lock lives")
	quick := flag.Bool("quick", false, "less of everything")
	flag.Parse()
	if err := all(*endpoint, *namespace, *quick); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func all(endpoint, namespace string, quick bool) error {
	print := func(what string, waiting int, times []time.Duration, requests float64) error {
		return json.NewEncoder(os.Stdout).Encode(result{what, waiting, quantile(times, 0.5), quantile(times, 0.99), requests})
	}
	for _, waiting := range []int{1, 10, 1000} {
		times, err := etcdMutex(endpoint, waiting, 100)
		if err != nil {
			return fmt.Errorf("etcd's Mutex: %w", err)
		}
		if err := print("etcd concurrency.Mutex", waiting, times, 0); err != nil {
			return err
		}
	}
	handoffs := 8
	if quick {
		handoffs = 3
	}
	for _, waiting := range []int{1, 10} {
		times, requests, err := pollingLoop(namespace, waiting, handoffs)
		if err != nil {
			return fmt.Errorf("the polling loop: %w", err)
		}
		if err := print("polling a ConfigMap", waiting, times, requests); err != nil {
			return err
		}
	}
	return nil
}
