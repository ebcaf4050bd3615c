"""Pictures drawn by code: the photos of the generated shop.

`canvas` knows shapes, light and shadow; `textures` knows colours, patterns and the surfaces things stand on; `dishes`
and `goods` each know how to draw their types; `photo` puts one picture together; `worker` draws many in processes of
its own. A picture is a pure function of its `Look`, so the same look gives the same bytes anywhere.
"""
