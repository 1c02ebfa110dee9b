package storetest

import "testing"

// TestModel holds the model, which engines are compared with, to the contract too.
func TestModel(t *testing.T) {
	Run(t, func(testing.TB) Opener {
		m := newModel()
		return func(testing.TB) Engine {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.closed = false
			return m
		}
	})
}
