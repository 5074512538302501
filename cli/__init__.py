"""The terminal program `dsv4-chat`: an application, not a library; nothing imports it."""
