"""The operations of Sidegate, independent of HTTP and of concrete stores."""
